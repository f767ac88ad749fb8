"""Which parameters of a backbone are trainable, and from which epoch on."""

from omegaconf import DictConfig
from timm.models import group_parameters
from torch import nn

from sports_lightning.errors import UserError


def set_trainable(net: nn.Module, finetune: DictConfig, epoch: int = 0) -> None:
    """Freeze the parameters that `conf/finetune/*.yaml` does not train in `epoch`, and unfreeze the others.

    Raises:
        UserError: more stages than the model has, or a model without stages or head known to timm.
    """
    if finetune.mode == "full":
        net.requires_grad_(True)
        return
    trainable = head_parameters(net)
    if finetune.mode in ("last_stages", "gradual"):
        stages = _stages(net)
        count = min(len(stages), epoch // finetune.epochs_per_stage) if finetune.mode == "gradual" else finetune.stages
        if not 0 <= count <= len(stages):
            raise UserError(f"finetune.stages={count}: the backbone of this model has {len(stages)} stages")
        trainable = trainable.union(*stages[len(stages) - count :])
    for parameter in net.parameters():
        parameter.requires_grad_(parameter in trainable)


def heads(net: nn.Module) -> tuple[nn.Module, ...]:
    """The last layer, or both last layers of a distilled model.

    Raises:
        UserError: a model without timm's `get_classifier`.
    """
    if not hasattr(net, "get_classifier"):
        raise UserError(
            f"{type(net).__name__} has no get_classifier, which returns its head: set finetune=full, without refit"
        )
    found = net.get_classifier()  # type: ignore[operator]
    return found if isinstance(found, tuple) else (found,)


def head_parameters(net: nn.Module) -> set[nn.Parameter]:
    """The parameters of the heads."""
    return {parameter for head in heads(net) for parameter in head.parameters()}


def head_names(net: nn.Module) -> set[str]:
    """The names in the state dict of `net` of the parameters and buffers of the heads."""
    tensors = {id(tensor) for head in heads(net) for tensor in head.state_dict(keep_vars=True).values()}
    return {name for name, tensor in net.state_dict(keep_vars=True).items() if id(tensor) in tensors}


def _stages(net: nn.Module) -> list[set[nn.Parameter]]:
    """The parameters of each stage before the head, from first to last.

    Stages are those of timm's `group_matcher(coarse=True)` of the model: stem, stages, head.
    """
    try:
        matcher = net.group_matcher(coarse=True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise UserError(f"timm does not know the stages of {type(net).__name__}: set finetune=full or head") from error
    layers = group_parameters(net, matcher, reverse=True)
    head = head_parameters(net)
    stages: dict[int, set[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter not in head:
            stages.setdefault(layers[name], set()).add(parameter)
    return [stages[layer] for layer in sorted(stages)]


def set_frozen_to_eval(module: nn.Module) -> None:
    """Put every submodule without trainable parameters into eval mode, so that BatchNorm statistics do not change.

    A submodule without any parameters, such as dropout, follows the next one that has some.
    """
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    is_trainable = True
    for child in reversed(list(module.children())):
        first = next(child.parameters(), None)
        if first is not None:
            set_frozen_to_eval(child)
            is_trainable = first.requires_grad
        elif not is_trainable:
            child.eval()


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, is_trainable in sizes if is_trainable)

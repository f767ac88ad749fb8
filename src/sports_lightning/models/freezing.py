"""How much of the backbone learns: which parameters are frozen, and when."""

from omegaconf import DictConfig
from timm.models import group_parameters
from torch import nn

from sports_lightning.errors import UserError


def set_trainable(net: nn.Module, finetune: DictConfig, epoch: int = 0) -> None:
    """Freeze the part of `net` that `conf/finetune/*.yaml` leaves out in `epoch` and free the rest.

    Raises:
        UserError: more stages than the model has, or none that timm knows.
    """
    if finetune.mode == "full":
        net.requires_grad_(True)
        return
    learning = head_parameters(net)
    if finetune.mode in ("last_stages", "gradual"):
        stages = _stages(net)
        count = min(len(stages), epoch // finetune.epochs_per_stage) if finetune.mode == "gradual" else finetune.stages
        if not 0 <= count <= len(stages):
            raise UserError(f"finetune.stages={count}: this model's backbone has {len(stages)} stages")
        learning = learning.union(*stages[len(stages) - count :])
    for parameter in net.parameters():
        parameter.requires_grad_(parameter in learning)


def heads(net: nn.Module) -> tuple[nn.Module, ...]:
    """The last layer, or both of them of a distilled model."""
    found = net.get_classifier()  # type: ignore[operator]
    return found if isinstance(found, tuple) else (found,)


def head_parameters(net: nn.Module) -> set[nn.Parameter]:
    """All of theirs."""
    return {parameter for head in heads(net) for parameter in head.parameters()}


def _stages(net: nn.Module) -> list[set[nn.Parameter]]:
    """The parameters of each stage before the head, from the first to the last.

    They are those of the model's own `group_matcher(coarse=True)` (timm): stem, stages, head.
    """
    try:
        matcher = net.group_matcher(coarse=True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise UserError(
            f"timm does not say what the stages of {type(net).__name__} are: set finetune=full or head"
        ) from error
    layers = group_parameters(net, matcher, reverse=True)
    head = head_parameters(net)
    stages: dict[int, set[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter not in head:
            stages.setdefault(layers[name], set()).add(parameter)
    return [stages[layer] for layer in sorted(stages)]


def set_frozen_to_eval(module: nn.Module) -> None:
    """Put every part whose parameters are all frozen into eval mode: BatchNorm statistics and dropout stand still.

    A part without parameters, such as a dropout, goes with what comes after it.
    """
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    learns = True
    for child in reversed(list(module.children())):
        first = next(child.parameters(), None)
        if first is not None:
            set_frozen_to_eval(child)
            learns = first.requires_grad
        elif not learns:
            child.eval()


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, learning) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)

"""How much of the backbone learns: which parameters are frozen, and when."""

from omegaconf import DictConfig
from timm.models import group_parameters
from torch import nn

from sports_lightning.errors import UserError


def apply_finetune(net: nn.Module, finetune: DictConfig, epoch: int = 0) -> None:
    """Freeze the part of `net` that `conf/finetune/*.yaml` leaves out in `epoch` and free the rest.

    Raises:
        UserError: more stages than the model has, or none that timm knows.
    """
    if finetune.mode == "full":
        net.requires_grad_(True)
        return
    learning = {id(p) for head in heads(net) for p in head.parameters()}
    if finetune.mode == "last_stages":
        learning |= _last_stages(net, learning, finetune.stages)
    elif finetune.mode == "gradual":
        learning |= _last_stages(net, learning, epoch // finetune.epochs_per_stage, or_all=True)
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in learning)


def heads(net: nn.Module) -> tuple[nn.Module, ...]:
    """The last layer, or both of them of a distilled model."""
    found = net.get_classifier()  # type: ignore[operator]
    return found if isinstance(found, tuple) else (found,)


def _last_stages(net: nn.Module, head: set[int], stages: int, or_all: bool = False) -> set[int]:
    """The ids of the parameters of so many stages before the head.

    They are those of the model's own `group_matcher(coarse=True)` (timm): stem, stages, head.
    """
    try:
        matcher = net.group_matcher(coarse=True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise UserError(
            f"timm does not say what the stages of {type(net).__name__} are: set finetune=full or head"
        ) from error
    layers = group_parameters(net, matcher, reverse=True)
    of_parameters = {id(p): layers[name] for name, p in net.named_parameters() if id(p) not in head}
    backbone = sorted(set(of_parameters.values()))
    if not or_all and not 0 <= stages <= len(backbone):
        raise UserError(f"finetune.stages={stages}: this model's backbone has {len(backbone)} stages")
    last = set(backbone[max(0, len(backbone) - stages) :])
    return {parameter for parameter, layer in of_parameters.items() if layer in last}


def set_frozen_parts_to_eval(module: nn.Module) -> None:
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
            set_frozen_parts_to_eval(child)
            learns = first.requires_grad
        elif not learns:
            child.eval()


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, learning) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)

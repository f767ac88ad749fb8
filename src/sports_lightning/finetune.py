"""How much of the backbone learns: which parameters are frozen, and when."""

from omegaconf import DictConfig
from timm.models import group_parameters
from torch import nn

from sports_lightning.errors import UserError


def apply_finetune(net: nn.Module, finetune: DictConfig, epoch: int = 0) -> None:
    """Freeze the part of `net` that `conf/finetune/*.yaml` leaves out in `epoch` and free the rest.

    The layers are those of the model's own `group_matcher(coarse=True)` (timm): stem, stages, head.

    Raises:
        UserError: more stages than the model has.
    """
    layers = group_parameters(net, net.group_matcher(coarse=True), reverse=True)  # type: ignore[operator]
    classifier = net.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple) else (classifier,)  # distilled models have two
    head = {id(p) for module in heads for p in module.parameters()}
    backbone = sorted({layers[name] for name, p in net.named_parameters() if id(p) not in head})
    stages = len(backbone)
    if finetune.mode == "head":
        stages = 0
    elif finetune.mode == "last_stages":
        stages = finetune.stages
    elif finetune.mode == "gradual":
        stages = min(len(backbone), epoch // finetune.epochs_per_stage)
    if not 0 <= stages <= len(backbone):
        raise UserError(f"finetune.stages={stages}: this model's backbone has {len(backbone)} stages")
    learning = set(backbone[len(backbone) - stages :])
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(id(parameter) in head or layers[name] in learning)


def set_frozen_parts_to_eval(module: nn.Module) -> None:
    """Put every part whose parameters are all frozen into eval mode: BatchNorm statistics and dropout stand still."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    for child in module.children():
        set_frozen_parts_to_eval(child)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, learning) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)

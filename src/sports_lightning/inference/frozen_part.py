"""What of a classifier comes first and does not learn, so that it need run only once over the images.

The whole backbone with `finetune=head`, its first stages with `finetune=last_stages`.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sports_lightning.models.batchnorm_folding import fuse_conv_bn
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.freezing import head_names, head_parameters
from sports_lightning.models.pretrained import short_message

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrozenBackbone:
    """Everything before the last layer, of a model that timm's `forward_head` can take apart there."""

    name = "backbone"

    def run(self, classifier: Classifier, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to (n, features)."""
        return classifier.features(images)

    def rest(self, classifier: Classifier, features: Tensor) -> Tensor:
        """(n, features) to logits (n, classes)."""
        return classifier.head(features)

    def weights(self, classifier: Classifier) -> dict[str, Tensor]:
        """What `run` depends on, by name."""
        head = head_names(classifier.net)
        return {name: tensor for name, tensor in classifier.net.state_dict().items() if name not in head}


@dataclass(frozen=True)
class FrozenStages:
    """The first modules of a net, of a model that runs them one after the other.

    Attributes:
        modules: their names in the net, in the order in which they run.
    """

    modules: tuple[str, ...]

    name = "stages"

    def run(self, classifier: Classifier, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to what the last of them gives, mostly (n, channels, h, w)."""

        def stop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            raise _Reached(output)

        hook = classifier.net.get_submodule(self.modules[-1]).register_forward_hook(stop)
        try:
            classifier(images)
        except _Reached as reached:
            return reached.output
        finally:
            hook.remove()
        raise AssertionError(f"{self.modules[-1]} was not run")

    def rest(self, classifier: Classifier, maps: Tensor) -> Tensor:
        """What `run` gives to logits (n, classes)."""
        if maps.ndim == 4:
            maps = maps.contiguous(memory_format=torch.channels_last)
        with self._bypassed(classifier.net):
            return classifier.calibrate(classifier.net(maps))

    def size(self, classifier: Classifier) -> int:
        """Bytes that an image's maps take, as float32."""
        with torch.inference_mode():  # of a copy in eval mode: noise must not reach the statistics of a BatchNorm
            return 4 * self.run(fuse_conv_bn(classifier), _probe_images(classifier)[:1]).numel()

    @contextmanager
    def _bypassed(self, net: nn.Module) -> Iterator[None]:
        """Within, they hand on what they get."""
        modules = [net.get_submodule(name) for name in self.modules]
        for module in modules:
            module.forward = _identity
        try:
            yield
        finally:
            for module in modules:
                del module.forward

    def weights(self, classifier: Classifier) -> dict[str, Tensor]:
        """What `run` depends on, by name."""
        state = classifier.net.state_dict()
        return {name: tensor for name, tensor in state.items() if name.startswith(tuple(f"{m}." for m in self.modules))}


FrozenPart = FrozenBackbone | FrozenStages


class _Reached(Exception):
    def __init__(self, output: Tensor) -> None:
        self.output = output


def _identity(inputs: Tensor) -> Tensor:
    return inputs


def find_frozen_part(classifier: Classifier) -> FrozenPart | None:
    """What of the classifier can run apart, given which of its parameters learn; None where that is nothing.

    Two images show whether both parts together are the model itself, in a copy whose learning parameters are drawn
    anew about what they are: a head or a branch that begins at zero would hide a difference.
    """
    probe = copy.deepcopy(classifier).eval()
    draws = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            for parameter in probe.parameters():
                if parameter.requires_grad and parameter.abs().max() < 1e-3:
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=draws))
                elif parameter.requires_grad:
                    parameter.mul_(0.5 + torch.rand(parameter.shape, generator=draws))
            images = _probe_images(probe)
            whole = probe(images)
            part = _candidate(probe, images)
            fast = fuse_conv_bn(probe)
            outputs = part.run(fast, images)  # as they are kept, for training the rest and for evaluating it
            difference = max(float((part.rest(rest, outputs) - whole).abs().max()) for rest in (probe, fast))
        # The logits of two images that hardly differ would hide a difference, too.
        if difference < min(1e-4 * whole.abs().max(), 1e-2 * (whole[0] - whole[1]).abs().max()):
            return part
        reason = f"taken apart, its logits differ by {difference:.1g}"
    except Exception as error:  # whatever a model's code does when it is taken apart
        reason = short_message(error)
    log.info("no part of %s can run once for all epochs: %s", classifier.spec.architecture, reason)
    return None


def _candidate(classifier: Classifier, images: Tensor) -> FrozenPart:
    net = classifier.net
    if {p for p in net.parameters() if p.requires_grad} <= head_parameters(net):
        if "drop_rate" in classifier.spec.arguments and not hasattr(net, "drop_rate"):
            raise ValueError("the model drops out within its head, at a place of its own")
        return FrozenBackbone()
    modules = tuple(first_modules(net, lambda: classifier(images)))
    if not modules:
        raise ValueError("its first part learns")
    return FrozenStages(modules)


def first_modules(net: nn.Module, forward: Callable[[], Any]) -> list[str]:
    """Names of the outermost modules that are done before the first one that learns begins.

    Raises:
        ValueError: one of them runs once more, after that.
    """
    done: dict[str, None] = {}  # in order
    has_learning_begun = False

    def begin(name: str, module: nn.Module) -> None:
        nonlocal has_learning_begun
        learns = [p.requires_grad for p in module.parameters()]
        has_learning_begun |= bool(learns) and all(learns)  # a stage, before what has no parameters in it
        if has_learning_begun and name in done:
            raise ValueError(f"{name} is used again after what learns")

    def end(name: str) -> None:
        if not has_learning_begun:
            done[name] = None

    hooks = []
    for name, module in net.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda module, _, name=name: begin(name, module)))
        hooks.append(module.register_forward_hook(lambda *_, name=name: end(name)))
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    outermost = [name for name in done if not any(name.startswith(f"{other}.") for other in done)]
    # The batch normalisation after a convolution, which may learn, would be folded into it.
    while outermost and isinstance(net.get_submodule(outermost[-1]), nn.Conv2d):
        outermost.pop()
    return outermost


def _probe_images(classifier: Classifier) -> Tensor:
    """uint8 (2, 3, height, width), the same every time: fine noise, and coarse."""
    height, width = classifier.spec.preprocessing["size"]
    draws = torch.Generator().manual_seed(0)
    fine, coarse = (torch.rand(1, 3, side, side, generator=draws) for side in (height, 4))
    return (255 * torch.cat([F.interpolate(noise, (height, width)) for noise in (fine, coarse)])).byte()

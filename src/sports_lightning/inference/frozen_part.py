"""The leading frozen part of a classifier, whose outputs can be computed once and cached.

It is the whole backbone with `finetune=head`, and the first stages with `finetune=last_stages`.
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

from sports_lightning.models.classifier import Classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn
from sports_lightning.models.freezing import head_names, head_parameters
from sports_lightning.models.pretrained import short_message

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrozenBackbone:
    """Everything before the last layer of a model whose `forward_head` (timm) can stop there."""

    name = "backbone"

    def run(self, classifier: Classifier, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to (n, features)."""
        return classifier.features(images)

    traceable = run  # for torch.export

    def rest(self, classifier: Classifier, features: Tensor) -> Tensor:
        """(n, features) to logits (n, classes)."""
        return classifier.head(features)

    def weights(self, classifier: Classifier) -> dict[str, Tensor]:
        """The parameters and buffers that `run` depends on, by name."""
        head = head_names(classifier.net)
        return {name: tensor for name, tensor in classifier.net.state_dict().items() if name not in head}


@dataclass(frozen=True)
class FrozenStages:
    """The first modules of a network that runs them one after the other.

    Attributes:
        modules: their names, in the order in which they run.
    """

    modules: tuple[str, ...]

    name = "stages"

    def run(self, classifier: Classifier, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to the output of the last module, usually (n, channels, h, w)."""

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

    def traceable(self, classifier: Classifier, images: Tensor) -> Tensor:
        """As `run`, for torch.export, which does not support the exception; it removes the rest from the graph."""
        outputs: list[Tensor] = []
        hook = classifier.net.get_submodule(self.modules[-1]).register_forward_hook(
            lambda module, inputs, output: outputs.append(output)
        )
        try:
            classifier(images)
        finally:
            hook.remove()
        return outputs[0]

    def rest(self, classifier: Classifier, maps: Tensor) -> Tensor:
        """From the output of `run` to logits (n, classes)."""
        if maps.ndim == 4:
            maps = maps.contiguous(memory_format=torch.channels_last)
        with self._bypassed(classifier.net):
            return classifier.calibrate(classifier.net(maps))

    def size(self, classifier: Classifier) -> int:
        """Bytes of the output for one image, as float32."""
        with torch.inference_mode():  # on the copy of fuse_conv_bn, because noise must not reach BatchNorm statistics
            return 4 * self.run(fuse_conv_bn(classifier), _probe_images(classifier)[:1]).numel()

    @contextmanager
    def _bypassed(self, net: nn.Module) -> Iterator[None]:
        """Let the modules return their input."""
        modules = [net.get_submodule(name) for name in self.modules]
        for module in modules:
            module.forward = _identity
        try:
            yield
        finally:
            for module in modules:
                del module.forward

    def weights(self, classifier: Classifier) -> dict[str, Tensor]:
        """The parameters and buffers that `run` depends on, by name."""
        state = classifier.net.state_dict()
        return {name: tensor for name, tensor in state.items() if name.startswith(tuple(f"{m}." for m in self.modules))}


FrozenPart = FrozenBackbone | FrozenStages


class _Reached(Exception):
    def __init__(self, output: Tensor) -> None:
        self.output = output


def _identity(inputs: Tensor) -> Tensor:
    return inputs


def find_frozen_part(classifier: Classifier) -> FrozenPart | None:
    """Find the frozen part of a classifier that can run separately; None if there is none.

    Two probe images check that both parts together equal the model. They run through a copy whose trainable parameters
    are randomly perturbed, since a head or branch that is initialized to zero would hide a difference.
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
            outputs = part.run(fast, images)  # as they are cached for training and evaluation
            difference = max(float((part.rest(rest, outputs) - whole).abs().max()) for rest in (probe, fast))
        # Probe images with almost equal logits would hide a difference as well.
        if difference < min(1e-4 * whole.abs().max(), 1e-2 * (whole[0] - whole[1]).abs().max()):
            return part
        reason = f"the logits of its parts differ by {difference:.1g} from those of the whole"
    except Exception as error:  # the code of a model may raise anything
        reason = short_message(error)
    log.info("no outputs of %s can be cached: %s", classifier.spec.architecture, reason)
    return None


def _candidate(classifier: Classifier, images: Tensor) -> FrozenPart:
    net = classifier.net
    if {p for p in net.parameters() if p.requires_grad} <= head_parameters(net):
        if "drop_rate" in classifier.spec.arguments and not hasattr(net, "drop_rate"):
            raise ValueError("the model has dropout at another place in its head")
        return FrozenBackbone()
    modules = tuple(first_modules(net, lambda: classifier(images)))
    if not modules:
        raise ValueError("its first layers are trainable")
    return FrozenStages(modules)


def first_modules(net: nn.Module, forward: Callable[[], Any]) -> list[str]:
    """Names of the outermost modules that return before the first trainable module starts.

    Args:
        net: the network.
        forward: runs it.

    Raises:
        ValueError: one of them runs again after the first trainable module.
    """
    done: dict[str, None] = {}  # an ordered set
    has_trainable_started = False

    def begin(name: str, module: nn.Module) -> None:
        nonlocal has_trainable_started
        is_trainable = [p.requires_grad for p in module.parameters()]
        # A whole stage counts, so that its first layers without parameters do not.
        has_trainable_started |= bool(is_trainable) and all(is_trainable)
        if has_trainable_started and name in done:
            raise ValueError(f"{name} runs again after a trainable layer")

    def end(name: str) -> None:
        if not has_trainable_started:
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
    # fuse_conv_bn would fuse a trainable BatchNorm into a frozen convolution before it.
    while outermost and isinstance(net.get_submodule(outermost[-1]), nn.Conv2d):
        outermost.pop()
    return outermost


def _probe_images(classifier: Classifier) -> Tensor:
    """uint8 (2, 3, height, width): fine and coarse noise, always the same."""
    height, width = classifier.spec.preprocessing["size"]
    draws = torch.Generator().manual_seed(0)
    fine, coarse = (torch.rand(1, 3, side, side, generator=draws) for side in (height, 4))
    return (255 * torch.cat([F.interpolate(noise, (height, width)) for noise in (fine, coarse)])).byte()

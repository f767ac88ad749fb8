"""Conv-BN fusion for inference: batch normalization is merged into the convolution before it.

The outputs are the same up to rounding. Fusion saves a pass over every map, which matters most for cheap convolutions.
"""

import copy
import threading
from typing import Any
from weakref import WeakKeyDictionary

from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sports_lightning.models.classifier import Classifier

_TRACING = threading.Lock()
_PAIRS: WeakKeyDictionary[nn.Module, list[tuple[str, str]]] = WeakKeyDictionary()


def fuse_conv_bn(classifier: Classifier) -> Classifier:
    """Return a copy in eval mode with Conv-BN fused, wherever only the BatchNorm uses the convolution's output.

    Nothing is fused in a model that torch.fx cannot trace.
    """
    pairs = fusible_pairs(classifier.net)
    classifier = copy.deepcopy(classifier).eval()
    net = classifier.net
    for conv_name, norm_name in pairs:
        norm: Any = net.get_submodule(norm_name)
        net.set_submodule(conv_name, fuse_conv_bn_eval(net.get_submodule(conv_name), norm))  # type: ignore[type-var]
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        net.set_submodule(norm_name, rest)
    return classifier


def fusible_pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions and the BatchNorms directly after them, found once per network.

    While torch.fx traces, the calls of all modules in all threads are its own, so that other threads should not run
    models then: a program with threads calls this at its start.
    """
    with _TRACING:
        if net not in _PAIRS:
            _PAIRS[net] = _pairs(copy.deepcopy(net).eval())
        return _PAIRS[net]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Also timm's subclasses, which pad by the size of the image or end with an activation.
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions and the BatchNorms directly after them; each runs exactly once."""
    try:
        nodes = [node for node in _Tracer().trace(net).nodes if node.op == "call_module"]
    except Exception:  # the code of a model may raise anything on a tracing proxy
        return []
    used = [node.target for node in nodes]
    pairs = []
    for node in nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before not in nodes or len(before.users) > 1:
            continue
        conv, norm = net.get_submodule(str(before.target)), net.get_submodule(str(node.target))
        # Exactly these types: subclasses may transform their weights, such as weight-standardized convolutions.
        known = type(conv) in (nn.Conv2d, Conv2dSame) and type(norm) in (nn.BatchNorm2d, BatchNormAct2d)
        if known and norm.running_mean is not None and used.count(node.target) == used.count(before.target) == 1:
            pairs.append((str(before.target), str(node.target)))
    return pairs

"""Where in an image a classifier looks: Grad-CAM (Selvaraju et al. 2017), by captum."""

import numpy as np
import torch
from captum.attr import LayerGradCam
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sports_lightning.models.classifier import Classifier


def heatmaps(classifier: Classifier, images: Tensor, predicted: Tensor) -> list[Image.Image]:
    """Each image with what speaks for its predicted class in warm colours, or nothing where the model has no maps.

    Args:
        classifier: in eval mode.
        images: uint8 (n, 3, height, width), as the classifier takes them.
        predicted: (n,) int64.
    """
    layer = _last_map(classifier, images[:1])
    if layer is None:
        return []
    with torch.enable_grad():
        maps = LayerGradCam(classifier, layer).attribute(images.float(), target=predicted, relu_attributions=True)
    maps = F.interpolate(maps.detach(), images.shape[-2:], mode="bilinear")[:, 0]
    shares = (maps.float() / maps.float().amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).numpy()
    drawn = []
    for image, share in zip(images.permute(0, 2, 3, 1).numpy(), shares, strict=True):
        colours = colormaps["inferno"](share)[..., :3] * 255
        drawn.append(Image.fromarray((0.5 * image + 0.5 * colours).astype(np.uint8)))
    return drawn


def _last_map(classifier: Classifier, images: Tensor) -> nn.Module | None:
    """The last module that gives the maps (n, channels, height, width) which timm's `forward_features` ends with.

    None for a model that ends with tokens, or with maps whose channels come last.
    """
    shapes: list[tuple[nn.Module, torch.Size]] = []

    def notice(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes.append((module, output.shape))

    hooks = [module.register_forward_hook(notice) for module in classifier.net.modules()]
    try:
        with torch.inference_mode():
            maps = classifier.maps(images)
    finally:
        for hook in hooks:
            hook.remove()
    is_map = maps.ndim == 4 and min(maps.shape[2:]) > 1 and maps.shape[3] != classifier.net.num_features
    return next((module for module, shape in reversed(shapes) if shape == maps.shape), None) if is_map else None

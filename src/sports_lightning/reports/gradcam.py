"""Heat maps of the image regions that contribute to a prediction: Grad-CAM (Selvaraju et al. 2017), by captum."""

import numpy as np
import torch
from captum.attr import LayerGradCam
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sports_lightning.models.classifier import Classifier


def draw_heatmaps(classifier: Classifier, images: Tensor, predicted: Tensor) -> list[Image.Image]:
    """Overlay each image with a heat map; the warmer a region, the more it contributes to the predicted class.

    Args:
        classifier: in eval mode, on the CPU.
        images: uint8 (n, 3, height, width), preprocessed.
        predicted: (n,) int64.

    Returns:
        n RGB images of the same size; none if the model does not end with feature maps.
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
        colors = colormaps["inferno"](share)[..., :3] * 255
        drawn.append(Image.fromarray((0.5 * image + 0.5 * colors).astype(np.uint8)))
    return drawn


def _last_map(classifier: Classifier, images: Tensor) -> nn.Module | None:
    """The last module whose output has the shape of timm's `forward_features`, (n, channels, height, width).

    None for a model without `forward_features`, or whose features are tokens, several tensors, or channels-last maps.
    """
    if not hasattr(classifier.net, "forward_features"):
        return None
    shapes: list[tuple[nn.Module, torch.Size]] = []

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes.append((module, output.shape))

    hooks = [module.register_forward_hook(record) for module in classifier.net.modules()]
    try:
        with torch.inference_mode():
            maps: object = classifier.maps(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        return None
    if min(maps.shape[2:]) == 1 or maps.shape[3] == classifier.net.num_features:
        return None
    return next((module for module, shape in reversed(shapes) if shape == maps.shape), None)

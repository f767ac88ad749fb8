"""`simple_cnn`: four plain convolutions, trained from scratch; the baseline of earlier notebooks."""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

# As in the notebooks, pixels are only rescaled to 0..1; as in Keras, images are squashed to the square.
default_cfgs = generate_default_cfgs(
    {
        "simple_cnn.untrained": {
            "input_size": (3, 224, 224),
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "fixed_input_size": True,
            "first_conv": "features.0",
            "classifier": "classifier",
        }
    }
)


class SimpleCNN(nn.Module):
    """3×3 convolutions 32-64-128-256 without padding, 2×2 max-pool after each, dense 512, dense classes.

    19,314,596 parameters at 224×224 and 100 classes. As in Keras, initial weights are Glorot-uniform and biases zero.

    Args:
        num_classes: outputs.
        in_chans: channels of the image.
        img_size: (height, width) in pixels; the first dense layer depends on it.

    Raises:
        ValueError: an image that is too small.
    """

    def __init__(
        self, num_classes: int = 1000, in_chans: int = 3, img_size: tuple[int, int] | int = 224, **_: Any
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        layers: list[nn.Module] = []
        for channels in (32, 64, 128, 256):
            # ReLU after pooling gives the same values as before it, with a quarter of the operations.
            layers += [nn.Conv2d(in_chans, channels, 3), nn.MaxPool2d(2), nn.ReLU()]
            in_chans = channels
            height, width = (height - 2) // 2, (width - 2) // 2
        if min(height, width) < 1:
            raise ValueError("images must have at least 46 pixels in height and width")
        self.features = nn.Sequential(*layers)
        self.num_features = self.head_hidden_size = 512
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(256 * height * width, 512), nn.ReLU())
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0)  # type: ignore[arg-type]

    def get_classifier(self) -> nn.Module:
        """The last dense layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last dense layer."""
        self.num_classes = num_classes
        self.classifier = nn.Linear(512, num_classes) if num_classes else nn.Identity()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers from input to output, for timm's layer-wise decay and for freezing."""
        return {"blocks": r"^features\.(\d+)", "hidden": [(r"^hidden", (99,))]}

    def forward_features(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, 512)."""
        return self.hidden(self.features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(n, 512) to logits (n, num_classes)."""
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) to logits (n, num_classes)."""
        return self.forward_head(self.forward_features(x))


@register_model
def simple_cnn(pretrained: bool = False, **kwargs: Any) -> SimpleCNN:
    """The notebooks' baseline CNN."""
    return build_model_with_cfg(SimpleCNN, "simple_cnn", pretrained, **kwargs)

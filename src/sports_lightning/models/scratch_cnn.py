"""`scratch_cnn`: a small residual CNN for training from scratch on a few thousand images of about 128 pixels.

It is designed to reach a given accuracy in a short time on a CPU. It therefore has no depthwise convolutions, attention
or squeeze-excite, which take more time on a CPU than their smaller FLOP count suggests.
"""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

default_cfgs = generate_default_cfgs(
    {
        "scratch_cnn.untrained": {
            "input_size": (3, 128, 128),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "stem.0",
            "classifier": "classifier",
        }
    }
)


def _conv(in_chans: int, out_chans: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_chans, out_chans, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(out_chans)
    )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016), with average pooling in the shortcut of strided blocks.

    The last BatchNorm weight is initialized to zero, so that every block starts as its shortcut (Goyal et al. 2017).
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_chans, out_chans, 3, stride)
        self.conv2 = _conv(out_chans, out_chans, 3)
        nn.init.constant_(self.conv2[1].weight, 0)  # type: ignore[arg-type]
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity(),
            _conv(in_chans, out_chans, 1) if in_chans != out_chans else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_chans, h, w) to (n, out_chans, h / stride, w / stride)."""
        return F.relu(self.shortcut(x) + self.conv2(F.relu(self.conv1(x))))


class ScratchCNN(nn.Module):
    """A stem of stride 4, one residual stage per width, global average pooling and a linear classifier.

    Args:
        num_classes: outputs.
        in_chans: channels of the image.
        widths: channels of the stages; each one after the first has stride 2.
        depths: residual blocks per stage.
        drop_rate: dropout before the classifier.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        depths: tuple[int, ...] = (1, 1, 2, 1),
        drop_rate: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(in_chans, widths[0], 5, stride=4), nn.ReLU())
        stages, channels = [], widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for block in range(depth):
                blocks.append(ResidualBlock(channels, width, stride=2 if stage and not block else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.num_features = self.head_hidden_size = channels
        self.drop_rate = drop_rate
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the linear classifier."""
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Layers from input to output, for timm's layer-wise decay and for freezing."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, widths[-1], height / 32, width / 32)."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(n, widths[-1], h, w) to logits (n, num_classes), or to (n, widths[-1])."""
        pooled = F.dropout(x.mean(dim=(2, 3)), self.drop_rate, self.training)
        return pooled if pre_logits else self.classifier(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) to logits (n, num_classes)."""
        return self.forward_head(self.forward_features(x))


@register_model
def scratch_cnn(pretrained: bool = False, **kwargs: Any) -> ScratchCNN:
    """The small residual network."""
    return build_model_with_cfg(ScratchCNN, "scratch_cnn", pretrained, **kwargs)

"""Our own backbones, registered with timm beside its own: importing this package makes timm know them by name."""

from sports_lightning.models import scratch_cnn, simple_cnn  # noqa: F401

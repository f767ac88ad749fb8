"""Backbones of this package; importing it registers them with timm by name."""

from sports_lightning.models import scratch_cnn, simple_cnn  # noqa: F401

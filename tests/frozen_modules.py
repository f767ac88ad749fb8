"""A module to train of which a part is frozen."""

from pathlib import Path

from conftest import FAST, composed
from sports_lightning.inference.training_features import cached_part
from sports_lightning.split.dataset import open_dataset
from sports_lightning.train.build import build
from sports_lightning.train.module import ClassifierModule


def frozen_module(few: Path, tmp_path: Path, finetune: str) -> ClassifierModule:
    """A small network with `finetune=head` or `finetune=last_stages`, and the part whose outputs will be cached."""
    overrides = ["model=timm", "model.name=test_efficientnet", "model.pretrained=false", "augment=none"]
    cfg = composed(tmp_path, *FAST, f"data.root={few}", *overrides, f"finetune={finetune}", "data.batch_size=24")
    index = open_dataset(cfg.data, ["train", "val"])
    module = build(cfg, index)[0]
    module.frozen = cached_part(module.classifier, index, cfg)
    assert module.frozen
    return module

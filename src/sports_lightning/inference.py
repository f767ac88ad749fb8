"""Logits of a classifier over a list of pictures; `train`'s end, `evaluate` and `predict` all come through here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import Dataset

from sports_lightning.classifier import Classifier
from sports_lightning.data.datamodule import build_loader
from sports_lightning.data.dataset import EvaluationPictures
from sports_lightning.data.index import Split
from sports_lightning.data.pictures import PictureFiles
from sports_lightning.preprocessing import Preprocessing


class _Forward(pl.LightningModule):
    def __init__(self, function: Callable[[Classifier, Tensor], Tensor], classifier: Classifier) -> None:
        super().__init__()
        self.function, self.classifier = function, classifier

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.function(self.classifier, batch[0]).float().cpu()


def compute_logits(classifier: Classifier, root: Path, split: Split, inference: DictConfig) -> Tensor:
    """Logits (n, classes) float32 of the pictures of `split`, in order, with the classifier's own preprocessing.

    Args:
        classifier: see `load_classifier`.
        root: the folder that the split's paths are relative to.
        split: the pictures.
        inference: `conf/inference/*.yaml`: batch size, workers, device and precision.
    """
    preprocessing = Preprocessing.from_dict(classifier.spec.preprocessing)
    files = PictureFiles(root, split, preprocessing.least_side)
    dataset = EvaluationPictures(files, split.labels, preprocessing.transform())
    return run_over(Classifier.forward, classifier, dataset, inference)


def run_over(
    function: Callable[[Classifier, Tensor], Tensor],
    classifier: Classifier,
    dataset: Dataset[Any],
    inference: DictConfig,
) -> Tensor:
    """What `function` makes of the pictures (n, 3, height, width) of `dataset`, in order, as float32 on the CPU."""
    trainer = build_inference_trainer(inference)
    loader = build_loader(dataset, inference.batch_size, inference.num_workers)
    return torch.cat(trainer.predict(_Forward(function, classifier), loader))  # type: ignore[arg-type]


def build_inference_trainer(inference: DictConfig) -> pl.Trainer:
    """A Lightning trainer that does nothing but run a model on one device."""
    return pl.Trainer(
        accelerator=inference.accelerator,
        devices=1,
        precision=inference.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )

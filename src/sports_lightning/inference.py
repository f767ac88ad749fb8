"""Logits of a classifier over a list of pictures; `train`'s end, `evaluate` and `predict` all come through here."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor

from sports_lightning.classifier import Classifier
from sports_lightning.data.datamodule import build_loader
from sports_lightning.data.dataset import EvaluationPictures
from sports_lightning.data.index import Split
from sports_lightning.preprocessing import Preprocessing


class _Forward(pl.LightningModule):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.classifier(batch[0]).float().cpu()


def compute_logits(classifier: Classifier, root: Path, split: Split, inference: DictConfig) -> Tensor:
    """Logits (n, classes) float32 of the pictures of `split`, in order, with the classifier's own preprocessing.

    Args:
        classifier: see `load_classifier`.
        root: the folder that the split's paths are relative to.
        split: the pictures.
        inference: `conf/inference/*.yaml`: batch size, workers, device and precision.
    """
    transform = Preprocessing.from_dict(classifier.spec.preprocessing).transform()
    dataset = EvaluationPictures(root, split, transform)
    trainer = build_inference_trainer(inference)
    batches = trainer.predict(_Forward(classifier), build_loader(dataset, inference.batch_size, inference.num_workers))
    return torch.cat(batches)  # type: ignore[arg-type]


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

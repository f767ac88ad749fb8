"""Logits of a classifier over a list of images; `train`'s end, `evaluate` and `predict` all come through here."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, LambdaCallback
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from sports_lightning.data.datamodule import build_loader, count_workers
from sports_lightning.data.dataset import EvaluationImages
from sports_lightning.data.decoded_cache import open_images
from sports_lightning.data.image_folder import Split
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.inference.devices import device_type, require_compiler, synchronize
from sports_lightning.models.batchnorm_folding import fuse_conv_bn
from sports_lightning.models.classifier import Classifier
from sports_lightning.storage.disk_cache import resolve_cache_dir

_TIMED = 20  # forward passes

Forward = Callable[[Classifier, Tensor], Tensor]  # takes uint8 images (n, 3, height, width), or kept features
Receive = Callable[[Tensor], Any]  # is given what it makes of a batch, float32 on the CPU


class _Forward(pl.LightningModule):
    def __init__(self, function: Forward, classifier: Classifier, inference: DictConfig) -> None:
        super().__init__()
        self.function, self.classifier = function, fuse_conv_bn(classifier)
        self.batch_size, self.mirror = inference.batch_size, inference.flip_tta
        self.compiled = _compile(function) if inference.compile else function

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        inputs = batch[0]
        # The last, smaller batch is not worth another compilation.
        function = self.compiled if len(inputs) == self.batch_size else self.function
        outputs = function(self.classifier, inputs)
        if self.mirror:
            outputs = (outputs + function(self.classifier, inputs.flip(-1))) / 2
        return outputs.float().cpu()


@cache
def _compile(function: Forward) -> Forward:
    # Weights that may not change can be laid out for the kernels once.
    return torch.compile(function, options={"freezing": True})


def compute_logits(classifier: Classifier, root: Path, split: Split, inference: DictConfig) -> Tensor:
    """Logits (n, classes) float32 of the images of `split`, in order, with the classifier's own preprocessing.

    Args:
        classifier: see `load_classifier`.
        root: the folder that the split's paths are relative to.
        split: the images.
        inference: `conf/inference/*.yaml`: batch size, workers, device and precision.
    """
    logits: list[Tensor] = []
    run_batches(Classifier.forward, classifier, evaluation_images(classifier, root, split), inference, logits.append)
    return torch.cat(logits)


def evaluation_images(
    classifier: Classifier, root: Path, split: Split, data: DictConfig | None = None
) -> EvaluationImages:
    """The images of `split`, below `root`, as this classifier takes them; where `data` keeps them decoded, those."""
    preprocessing = Preprocessing.from_dict(classifier.spec.preprocessing)
    cache, cache_dir = (data.cache, resolve_cache_dir(data)) if data else (None, Path())
    images = open_images(root, split, preprocessing.least_side, cache, cache_dir)
    return EvaluationImages(images, split.labels, preprocessing.transform())


def run_batches(
    function: Forward, classifier: Classifier, dataset: Dataset[Any], inference: DictConfig, receive: Receive
) -> None:
    """Hand what `function` makes of the images or features of `dataset` to `receive`, batch by batch, in order."""
    # Not by what `predict` returns, for that is in memory all at once.
    trainer = build_inference_trainer(
        inference, LambdaCallback(on_predict_batch_end=lambda _, __, outputs, *___: receive(outputs))
    )
    num_workers = count_workers(inference.num_workers, device_type(inference.accelerator))
    loader = build_loader(dataset, inference.batch_size, num_workers)
    trainer.predict(_Forward(function, classifier, inference), loader, return_predictions=False)


def measure_cost(classifier: Classifier, inference: DictConfig) -> dict[str, float]:
    """What one image costs: `flops` of the forward pass, and `latency_ms`, its median wall time in a batch of one.

    Operations are those of torch's FlopCounterMode: two for each multiplication with its addition, in convolutions,
    matrix products and attention.
    """
    device = torch.device(device_type(inference.accelerator))
    model = fuse_conv_bn(classifier).to(device)
    size = Preprocessing.from_dict(classifier.spec.preprocessing).size
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    dtype = torch.float16 if inference.precision == "16-mixed" else torch.bfloat16
    seconds = []
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled="mixed" in inference.precision):
        with FlopCounterMode(display=False) as counter:
            model(image)
        for _ in range(_TIMED):
            started = time.perf_counter()
            model(image)
            synchronize(device)
            seconds.append(time.perf_counter() - started)
    return {"flops": counter.get_total_flops(), "latency_ms": round(1000 * statistics.median(seconds), 3)}


def build_inference_trainer(inference: DictConfig, *callbacks: Callback) -> pl.Trainer:
    """A Lightning trainer that does nothing but run a model on one device.

    Raises:
        UserError: `inference.compile` without what it needs.
    """
    if inference.compile:
        require_compiler()
    return pl.Trainer(
        accelerator=inference.accelerator,
        devices=1,
        precision=inference.precision,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )

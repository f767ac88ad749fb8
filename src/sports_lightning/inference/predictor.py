"""Run a trained classifier on images: in `train` (after training), `evaluate`, `predict` and the Python API.

Every forward pass is on a full batch. Matrix and convolution kernels choose their blocking by the shape of their input,
and on some CPUs (AVX-512, AMX) the last digit of the logits of an image depends on the batch size. The last batch is
therefore padded, so that for the same device, precision, threads and `inference.batch_size` the logits of an image are
bit-identical whatever other images are evaluated with it.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
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
from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decoded_cache import open_images
from sports_lightning.errors import UserError
from sports_lightning.inference.devices import (
    device_type,
    inference_devices,
    require_compiler,
    require_device,
    synchronize,
)
from sports_lightning.inference.exported import AnyClassifier, ExportedModel
from sports_lightning.inference.input_files import InputFiles
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn
from sports_lightning.runs.console import shows_progress_bars
from sports_lightning.storage.disk_cache import resolve_cache_dir

_LATENCY_REPEATS = 20  # forward passes, of which the median is reported

Forward = Callable[[Classifier, Tensor], Tensor]  # classifier and a batch of images or of cached features to outputs
Receive = Callable[[Tensor], Any]  # is called with the outputs of each batch, float32 on the CPU
ReceiveItems = Callable[[Tensor, Tensor], Any]  # with the second member of the items, too


class _BatchRunner(pl.LightningModule):
    """Runs `function` of a Conv-BN-fused copy of the classifier on full batches, unless `pads` is false."""

    def __init__(self, function: Forward, classifier: Classifier, inference: DictConfig, pads: bool = True) -> None:
        super().__init__()
        self.pads = pads
        self.function = _compile(function) if inference.compile else function
        self.classifier = fuse_conv_bn(classifier)
        self.batch_size, self.flip_tta = inference.batch_size, inference.flip_tta

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        inputs = pad_batch(batch[0], self.batch_size) if self.pads else batch[0]
        outputs = self.function(self.classifier, inputs)
        if self.flip_tta:
            outputs = (outputs + self.function(self.classifier, inputs.flip(-1))) / 2
        if outputs.isnan().any():
            raise UserError(
                "the network's outputs are not numbers: its weights are damaged, or the precision is too low for it: "
                "set inference.precision=32-true"
            )
        return outputs[: len(batch[0])].float().cpu()


def output_settings(inference: DictConfig) -> list[Any]:
    """The settings of `conf/inference/*.yaml` that outputs depend on; other types of device round differently."""
    names = ("precision", "compile", "flip_tta", "batch_size")
    return [*(inference[name] for name in names), device_type(inference.accelerator)]


def pad_batch(batch: Tensor, batch_size: int) -> Tensor:
    """Repeat the last item of `batch` (n, …) until there are `batch_size` items; n <= `batch_size`."""
    if len(batch) == batch_size:
        return batch
    return batch[torch.arange(batch_size, device=batch.device).clamp(max=len(batch) - 1)]


@cache
def _compile(function: Forward) -> Forward:
    # The weights are constant here, and freezing lays them out for the kernels once.
    return torch.compile(function, options={"freezing": True})


def compute_logits(classifier: AnyClassifier, root: Path, split: Split, inference: DictConfig) -> Tensor:
    """Logits (n, classes) float32 of the images of `split`, in order, with the preprocessing of the classifier.

    Args:
        classifier: as `load_classifier` or `open_classifier` returns it.
        root: folder that the paths of the split are relative to.
        split: the images.
        inference: `conf/inference/*.yaml`: batch size, workers, device and precision.

    Raises:
        UserError: settings that an exported file cannot follow.
    """
    if isinstance(classifier, ExportedModel):
        return classifier.logits(root, split, inference)
    return compute_outputs(Classifier.forward, classifier, root, split, inference)


def compute_outputs(
    function: Forward, classifier: Classifier, root: Path, split: Split, inference: DictConfig
) -> Tensor:
    """As `compute_logits`, for any function of the classifier and a batch: its outputs (n, …) float32."""
    outputs: list[Tensor] = []
    run_batches(function, classifier, evaluation_images(classifier, root, split), inference, outputs.append)
    return torch.cat(outputs)


def evaluation_images(
    classifier: Classifier, root: Path, split: Split, data: DictConfig | None = None, pool: Split | None = None
) -> EvaluationImages:
    """The images of `split`, preprocessed for this classifier.

    Args:
        classifier: its preprocessing is used.
        root: folder that the paths of the split are relative to.
        split: the images.
        data: `conf/data/*.yaml`, whose cache of decoded images is used; None: images are decoded from their files.
        pool: in cross-validation, the images of all folds, which are cached together.
    """
    preprocessing = classifier.preprocessing
    cache, cache_dir = (data.cache, resolve_cache_dir(data)) if data else (None, Path())
    images = open_images(root, split, preprocessing.least_side, cache, cache_dir, preprocessing.value_range, pool)
    return EvaluationImages(images, split.labels, preprocessing.transform())


def run_batches(
    function: Forward,
    classifier: Classifier,
    dataset: Dataset[Any],
    inference: DictConfig,
    receive: Receive,
    progress: bool = True,
) -> None:
    """Call `receive` with the outputs of `function` for each batch of `dataset`, in order.

    Args:
        function: what to compute. It gets batches of exactly `inference.batch_size` items.
        classifier: first argument of `function`, as a Conv-BN-fused copy in eval mode.
        dataset: its items are tuples that start with a preprocessed image, uint8 (3, height, width), or with features.
        inference: `conf/inference/*.yaml`.
        receive: gets the outputs (n, …) float32 of the n items of a batch.
        progress: whether to show a progress bar if the output is a terminal.

    Raises:
        UserError: `inference.compile` without a compiler.
    """
    _run_loader(function, classifier, dataset, inference, lambda outputs, _: receive(outputs), progress)


def run_readable(
    function: Forward, classifier: AnyClassifier, files: InputFiles, inference: DictConfig, receive: ReceiveItems
) -> None:
    """As `run_batches`, for files of which some may be unreadable: `receive` also gets which of them are not.

    Args:
        function: what to compute; an exported file computes its logits.
        classifier: as `load_classifier` or `open_classifier` returns it.
        files: what to compute it for.
        inference: `conf/inference/*.yaml`.
        receive: gets the outputs (n, …) float32 and, as (n,) bool, whether the file of each could be read.

    Raises:
        UserError: settings that the classifier cannot follow.
    """
    if isinstance(classifier, ExportedModel):
        classifier.run_readable(files, inference, receive)
    else:
        _run_loader(function, classifier, files, inference, lambda outputs, batch: receive(outputs, batch[1]))


def _run_loader(
    function: Forward,
    classifier: Classifier,
    dataset: Dataset[Any],
    inference: DictConfig,
    receive: Callable[[Tensor, Sequence[Tensor]], Any],
    progress: bool = True,
) -> None:
    """Run `function` on every batch of a dataset; `receive` gets its outputs and the batch."""
    # A callback, because the outputs that Trainer.predict returns are all in memory at once.
    trainer = build_inference_trainer(
        inference,
        LambdaCallback(on_predict_batch_end=lambda _, __, outputs, batch, *___: receive(outputs, batch)),
        progress=progress,
    )
    device = device_type(inference.accelerator)
    num_workers = count_workers(inference.num_workers, device)
    loader = build_loader(dataset, inference.batch_size, num_workers, device)
    loader.generator = torch.Generator()  # otherwise the loader would take a seed for its workers from the user's draws
    trainer.predict(_BatchRunner(function, classifier, inference), loader, return_predictions=False)


def run_stream(
    function: Forward,
    classifier: Classifier,
    batches: Iterable[Sequence[Tensor]],
    inference: DictConfig,
    receive: Receive,
) -> None:
    """As `run_batches`, for batches of at most `inference.batch_size` items that arrive one after the other.

    The next batch is requested after `receive` has been called with the outputs of the one before. Batches are not
    padded: the logits of an image may depend on the size of its batch.

    Args:
        batches: tuples that start with preprocessed images, uint8 (n, 3, height, width). It has a length, because
            Lightning would otherwise wait for the next batch before it runs one.
    """
    trainer = build_inference_trainer(
        inference,
        LambdaCallback(on_predict_batch_end=lambda _, __, outputs, *___: receive(outputs)),
        progress=False,
    )
    trainer.predict(_BatchRunner(function, classifier, inference, pads=False), batches, return_predictions=False)


def measure_cost(classifier: Classifier, inference: DictConfig) -> dict[str, float]:
    """Cost of one image: `flops` of the forward pass, and `latency_ms`, its median wall time in a batch of one.

    FLOPs are counted by torch's FlopCounterMode: two per multiply-add, in convolutions, matrix products and attention.
    """
    device = torch.device(device_type(inference.accelerator))
    model = fuse_conv_bn(classifier).to(device)
    size = classifier.preprocessing.size
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    dtype = torch.float16 if inference.precision == "16-mixed" else torch.bfloat16
    seconds = []
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled="mixed" in inference.precision):
        with FlopCounterMode(display=False) as counter:
            model(image)
        for _ in range(_LATENCY_REPEATS):
            started = time.perf_counter()
            model(image)
            synchronize(device)
            seconds.append(time.perf_counter() - started)
    return {"flops": counter.get_total_flops(), "latency_ms": round(1000 * statistics.median(seconds), 3)}


def build_inference_trainer(inference: DictConfig, *callbacks: Callback, progress: bool = True) -> pl.Trainer:
    """A Lightning trainer that only runs a model on one device: the GPU that this process trains on, if it does.

    Raises:
        UserError: no such device, or `inference.compile` without a compiler.
    """
    require_device(inference.accelerator)
    if inference.compile:
        require_compiler()
    return pl.Trainer(
        accelerator=inference.accelerator,
        devices=inference_devices(inference.accelerator),
        precision=inference.precision,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress and shows_progress_bars(),
    )

"""Limits of the machine: the largest batch that fits into memory, and disk space for checkpoints."""

import copy
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning.utilities.memory import is_oom_error

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import device_type
from sports_lightning.runs.process import is_externally_launched
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.precision import training_step

log = logging.getLogger(__name__)

_LARGEST = 256  # images; larger batches need another recipe
_SMALLEST = 8
_WITHOUT_GPU = 32  # images; on a CPU larger batches are not faster
BATCH_SIZE = "SPORTS_LIGHTNING_BATCH_SIZE"  # tells the other processes of a distributed run


@contextmanager
def explain_batch_errors(batch_size: int) -> Iterator[None]:
    """Turn an error that another batch size avoids into one line that suggests it.

    Raises:
        UserError: out of memory, or a batch of one image, of which BatchNorm can't compute a variance.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        worker_killed = "killed by signal: Killed" in str(error)  # by the system, when the memory is full
        if not (isinstance(error, MemoryError) or is_oom_error(error) or worker_killed):
            raise
        smaller = f"try data.batch_size={max(1, batch_size // 2)}, or auto"
        raise UserError(f"out of memory with data.batch_size={batch_size}: {smaller}") from error
    except ValueError as error:
        if "more than 1 value per channel when training" not in str(error):
            raise
        raise UserError(
            f"the model has BatchNorm layers, which can't be trained on one image per device and batch: raise "
            f"data.batch_size={batch_size} to two or more per device, or add training images"
        ) from error


def choose_batch_size(
    requested: int | Literal["auto"], module: ClassifierModule, precision: str | None, accelerator: str, processes: int
) -> int:
    """Return the global batch size, which is `requested` itself unless that is "auto".

    "auto" on an NVIDIA GPU is the largest power of two up to 256 for which a training step fits into memory, found by
    trial; on other devices it is 32. Either is rounded down to a multiple of `processes`.

    Args:
        requested: `data.batch_size`.
        module: the model to train; its weights do not change.
        precision: Lightning's name, or None for its default.
        accelerator: `trainer.accelerator`, Lightning's name.
        processes: training processes, among which the batch is divided.

    Raises:
        UserError: a number that does not divide among the processes, or "auto" with torchrun or srun.
    """
    if requested != "auto":
        if requested % processes:
            remedy = f"set data.batch_size={_divisible(requested, processes)}"
            raise UserError(f"data.batch_size={requested} does not divide over {processes} devices: {remedy}")
        return requested
    if BATCH_SIZE in os.environ:
        return int(os.environ[BATCH_SIZE])
    if is_externally_launched():
        raise UserError("data.batch_size=auto is not supported with torchrun or srun: set a number")
    device = torch.device(device_type(accelerator))
    largest = _largest_that_fits(module, precision, device) if device.type == "cuda" else _WITHOUT_GPU
    size = _divisible(largest, processes)
    log.info("data.batch_size=auto: %d images", size)
    return size


def largest_batch(accelerator: str) -> int:
    """The most that `data.batch_size=auto` becomes on this device."""
    return _LARGEST if device_type(accelerator) == "cuda" else _WITHOUT_GPU


def check_disk_space(module: ClassifierModule, folder: Path, averages: bool, further: int = 0) -> None:
    """Check before the training that its checkpoints will fit onto the disk.

    Args:
        module: the model to train.
        folder: where the checkpoints are written; those of an interrupted run will be replaced.
        averages: whether the checkpoints hold an average of the weights too.
        further: number of checkpoints in addition to the best and the last.

    Raises:
        UserError: the checkpoints will not fit.
    """
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    is_gradual = module.finetune_config.mode == "gradual"  # later epochs train more
    moments = 2 * sum(p.nbytes for p in module.parameters() if p.requires_grad or is_gradual)
    existing = sum(file.stat().st_size for file in folder.glob("*.ckpt"))
    # The best, the last, and the one being written.
    needed = (3 + further) * ((1 + averages) * weights + moments) - existing
    disk = shutil.disk_usage(folder.parent)
    if disk.free < needed and disk.total:  # total is 0 on network drives that do not report their size
        raise UserError(
            f"not enough room in {folder.parent}: checkpoints take up to {needed / 1e6:,.0f} MB more and "
            f"{disk.free / 1e6:,.0f} MB are free; free some space, or choose another place with hydra.run.dir=FOLDER"
        )


def _divisible(batch_size: int, processes: int) -> int:
    """The largest multiple of `processes` up to `batch_size`, or `processes` itself."""
    return max(batch_size // processes, 1) * processes


def _largest_that_fits(module: ClassifierModule, precision: str | None, device: torch.device) -> int:
    size = _SMALLEST
    while 2 * size <= _LARGEST and _fits(module, precision, device, 2 * size):
        size *= 2
    return size


def _fits(module: ClassifierModule, precision: str | None, device: torch.device, size: int) -> bool:
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.reset_peak_memory_stats(device)
    try:
        _step(module, precision, device, size)
    except RuntimeError as error:
        if not is_oom_error(error):
            raise
        return False
    finally:
        torch.cuda.empty_cache()
    return torch.cuda.max_memory_reserved(device) < 0.9 * total


def _step(module: ClassifierModule, precision: str | None, device: torch.device, size: int) -> None:
    """Run a training step of a copy on random images, all through the whole model."""
    with torch.random.fork_rng(devices=[]):
        images = torch.randint(0, 256, (size, 3, *module.classifier.spec.preprocessing["size"]), dtype=torch.uint8)
        labels = torch.arange(size) % len(module.classifier.spec.classes)
        trial = copy.deepcopy(module).to(device).train()
        trial.frozen = None
        if trial.finetune_config.mode == "gradual":  # later epochs need the most memory
            trial.classifier.net.requires_grad_(True)
        optimizer = torch.optim.AdamW([p for p in trial.parameters() if p.requires_grad])
        training_step(trial, optimizer, precision, images.to(device), labels.to(device))

"""What fits: a batch into memory, checkpoints onto the disk."""

import copy
import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pytorch_lightning.utilities.memory import is_oom_error
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import device_type
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.precision import training_step

log = logging.getLogger(__name__)

_MOST = 256  # images; larger batches want another recipe
_LEAST = 8
_SHARE = 0.8  # of the memory that is free
_BATCH_SIZE = "SPORTS_LIGHTNING_BATCH_SIZE"  # tells the further processes of a distributed run


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Turn what runs out of memory within into a line that says what to do.

    Raises:
        UserError: out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        worker_killed = "killed by signal: Killed" in str(error)  # by the system, when there is no memory left
        if not (isinstance(error, MemoryError) or is_oom_error(error) or worker_killed):
            raise
        smaller = f"try data.batch_size={max(1, batch_size // 2)}, or auto"
        raise UserError(f"out of memory with data.batch_size={batch_size}: {smaller}") from error


def choose_batch_size(module: ClassifierModule, precision: str, accelerator: str, devices: int) -> int:
    """The largest power of two, up to 256, of which a training step fits into memory; so much of it as devices share.

    On an NVIDIA GPU by trying. Elsewhere, where too much would end the process, by what a step on 8 images keeps for
    its backward pass.

    Args:
        module: what is to be trained; its weights stay as they are.
        precision: Lightning's name.
        accelerator: `trainer.accelerator`, Lightning's name.
        devices: over which the batch is to divide.
    """
    if _BATCH_SIZE in os.environ:
        return int(os.environ[_BATCH_SIZE])
    device = torch.device(device_type(accelerator))
    size = _LEAST
    if device.type != "cuda":
        activations, weights = _bytes_of_a_step(module, precision)
        free = _SHARE * _free_memory()
        # A copy of the weights, gradients, two moments; a quarter more for what comes and goes.
        while 2 * size <= _MOST and 4 * weights + 1.25 * activations * 2 * size / _LEAST < free:
            size *= 2
    else:
        while 2 * size <= _MOST and _fits(module, precision, device, 2 * size):
            size *= 2
    size = divisible_batch_size(size, devices)
    log.info("data.batch_size=auto: %d images", size)
    os.environ[_BATCH_SIZE] = str(size)
    return size


def divisible_batch_size(batch_size: int, devices: int) -> int:
    """The largest batch up to `batch_size` that divides over so many devices; of one image each at least."""
    return max(batch_size // devices, 1) * devices


def forget_batch_size() -> None:
    """For another run in this process."""
    os.environ.pop(_BATCH_SIZE, None)


def check_disk_space(module: ClassifierModule, folder: Path, averages: bool) -> None:
    """Find out before the training whether its checkpoints will fit onto the disk.

    Args:
        module: what is trained.
        folder: of the checkpoints; those of an interrupted run will be replaced.
        averages: whether they hold an average of the weights too.

    Raises:
        UserError: they will not.
    """
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    moments = 2 * sum(p.nbytes for p in module.parameters() if p.requires_grad)
    there = sum(file.stat().st_size for file in folder.glob("*.ckpt"))
    needed = 3 * ((1 + averages) * weights + moments) - there  # best, last, the one being written
    disk = shutil.disk_usage(folder.parent)
    if disk.free < needed and disk.total:  # 0: a network drive or the like that does not say
        raise UserError(
            f"not enough room in {folder.parent}: checkpoints take up to {needed / 1e6:,.0f} MB more and "
            f"{disk.free / 1e6:,.0f} MB are free; free some, or choose another place with hydra.run.dir=FOLDER"
        )


def _free_memory() -> float:
    """Bytes, within what a container or a batch system allows."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except ValueError as error:
        raise UserError("data.batch_size=auto can't tell how much memory is free here: set a number") from error
    return min(free, *map(_left_to, _control_groups()))


def _control_groups() -> list[Path]:
    """Linux's control group of this process and those that it is in (version 2)."""
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
    except OSError:
        own = ""
    path = Path("/", own)
    return [Path(f"/sys/fs/cgroup{group}") for group in (path, *path.parents)]


def _left_to(group: Path) -> float:
    """Bytes."""
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such limit
        return math.inf


def _bytes_of_a_step(module: ClassifierModule, precision: str) -> tuple[int, int]:
    """What autograd keeps of 8 images, and the weights, in bytes."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _step(module, precision, torch.device("cpu"), _LEAST)
    return sum(kept.values()), sum(p.nbytes for p in module.parameters())


def _fits(module: ClassifierModule, precision: str, device: torch.device, size: int) -> bool:
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


def _step(module: ClassifierModule, precision: str, device: torch.device, size: int) -> None:
    """A training step on random images, of a copy."""
    with torch.random.fork_rng(devices=[]):
        images = torch.randint(0, 256, (size, 3, *module.classifier.spec.preprocessing["size"]), dtype=torch.uint8)
        labels = torch.arange(size) % len(module.classifier.spec.classes)
        trial = copy.deepcopy(module).to(device).train()
        optimizer = torch.optim.AdamW([p for p in trial.parameters() if p.requires_grad])
        training_step(trial, optimizer, precision, images.to(device), labels.to(device))

"""Training throughput: the model alone, the input pipeline alone, and both together."""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.inference.devices import device_type, synchronize
from sports_lightning.storage.files import write_csv
from sports_lightning.train.build import build
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.optimizer import build_optimizer
from sports_lightning.train.precision import precisions, standard_name, step_rate, training_step


@dataclass(frozen=True)
class Row:
    """The throughput in one precision.

    Attributes:
        precision: the precision, as Lightning names it.
        model: images per second of the training step alone, repeated on one batch.
        pipeline: images per second of the data loader alone.
        end_to_end: images per second of training on the loader's batches.
        ratio: `end_to_end` / `model`; 1 means that the model never waits for data.
        waiting: the share of the time spent waiting for the loader.
        gflops: floating-point operations per image, forward and backward, in 10^9.
        utilisation: floating-point operations per second, relative to a large matrix product in the same precision.
        memory_gib: peak memory in GiB: of this precision on a GPU, of the process so far on a CPU.
    """

    precision: str
    model: float
    pipeline: float
    end_to_end: float
    ratio: float
    waiting: float
    gflops: float
    utilisation: float
    memory_gib: float


_LINES = {
    "model": "{:.1f} img/s alone",
    "pipeline": "{:.1f} img/s alone",
    "end_to_end": "{:.1f} img/s",
    "ratio": "{:.2f} of the model alone",
    "waiting": "{:.0%} of the time for data",
    "gflops": "{:.2f} per image, forward and backward",
    "utilisation": "{:.0%} of a matrix product's rate",
    "memory_gib": "{:.2f} peak",
}


def measure(cfg: DictConfig, index: DatasetIndex) -> list[Row]:
    """Time `cfg.steps` training steps of the first epoch in each precision.

    With `finetune=head` a step includes the frozen backbone's forward pass.

    Args:
        cfg: `conf/benchmark.yaml`. `trainer.precision=auto` selects the precisions that are fast on this machine.
        index: the dataset.

    Raises:
        UserError: an unsupported precision or optimizer, or an epoch with too few batches.
    """
    pl.seed_everything(cfg.seed, verbose=False)
    known = ["32-true", "bf16-mixed", "16-mixed"]
    requested = standard_name(cfg.trainer.precision) or "32-true"
    if requested not in ("auto", *known):
        raise UserError(f"trainer.precision={cfg.trainer.precision}: benchmark supports auto, {', '.join(known)}")
    module, data = build(cfg, index)
    device = device_type(cfg.trainer.accelerator)
    module.to(device).train()
    # The data module asks its trainer for the rank, which selects the images.
    data.trainer = pl.Trainer(accelerator=cfg.trainer.accelerator, devices=1, logger=False, enable_checkpointing=False)
    loader = data.train_dataloader()
    if len(loader) <= cfg.steps:
        raise UserError(
            f"steps={cfg.steps}: an epoch has only {len(loader)} batches, and one more than steps is needed"
        )
    pipeline = _pipeline_rate(loader, cfg.steps)
    selected = precisions(device) if requested == "auto" else [requested]
    return [_row(module, precision, loader, cfg.steps, pipeline) for precision in selected]


def _steady_batches(loader: Any, steps: int) -> Iterator[Any]:
    """The batches of an epoch after those that the workers had prepared before anything was timed."""
    batches = iter(loader)
    prepared = loader.num_workers * (loader.prefetch_factor or 0)
    for _ in range(max(1, min(prepared, len(loader) - steps))):
        next(batches)
    return batches


def _pipeline_rate(loader: Any, steps: int) -> float:
    batches = _steady_batches(loader, steps)
    started = time.perf_counter()
    count = sum(len(next(batches)[0]) for _ in range(steps))
    return count / (time.perf_counter() - started)


def _row(module: ClassifierModule, precision: str, loader: Any, steps: int, pipeline: float) -> Row:
    device = module.classifier.mean.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    settings = OmegaConf.merge(module.optimizer_config, {"lr": 0.0})  # the weights do not change
    optimizer = build_optimizer(module.classifier.net, settings)  # type: ignore[arg-type]
    images, targets = (tensor.to(device) for tensor in next(iter(loader)))
    model = step_rate(module, precision, images, targets, steps, optimizer)

    batches = _steady_batches(loader, steps)
    count, waiting = 0, 0.0
    started = time.perf_counter()
    for _ in range(steps):
        requested = time.perf_counter()
        images, targets = next(batches)
        waiting += time.perf_counter() - requested
        training_step(module, optimizer, precision, images.to(device), targets.to(device))
        count += len(images)
    synchronize(device)
    elapsed = time.perf_counter() - started
    rate = count / elapsed

    no_products = torch.optim.SGD(module.parameters(), lr=0.0)  # Muon's would count as those of the passes
    with FlopCounterMode(display=False) as counter:
        training_step(module, no_products, precision, images.to(device), targets.to(device))
    flops = counter.get_total_flops() / len(images)
    return Row(
        precision=precision,
        model=model,
        pipeline=pipeline,
        end_to_end=rate,
        ratio=rate / model,
        waiting=waiting / elapsed,
        gflops=flops / 1e9,
        utilisation=flops * rate / _matrix_flops(precision, device),
        memory_gib=_peak_memory(device),
    )


def _matrix_flops(precision: str, device: torch.device, size: int = 2048) -> float:
    """Floating-point operations per second of a product of two square matrices: the best of five runs."""
    dtype = {"32-true": torch.float32, "16-mixed": torch.float16}.get(precision, torch.bfloat16)
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def write(rows: list[Row], path: Path) -> None:
    """Write one row per precision."""
    write_csv(path, [field.name for field in fields(Row)], [list(asdict(row).values()) for row in rows])


def print_table(rows: list[Row]) -> None:
    """Print one column per precision."""
    table = Table("", *(row.precision for row in rows))
    for name, unit in _LINES.items():
        table.add_row(name.replace("_", " "), *(unit.format(getattr(row, name)) for row in rows))
    Console().print(table)

"""Lightning's trainer for a run: how many processes it has, their strategy, the callbacks and the loggers."""

import logging
import multiprocessing
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.callbacks import (
    Callback,
    ModelCheckpoint,
    ProgressBar,
    RichProgressBar,
    TQDMProgressBar,
    WeightAveraging,
)
from pytorch_lightning.loggers import Logger

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import device_type
from sports_lightning.runs.checkpoint_files import AtomicCheckpointIO
from sports_lightning.runs.console import shows_progress_bars
from sports_lightning.runs.process import Process, local_rank
from sports_lightning.train.best_checkpoint import FurtherCheckpoints, build_checkpoints
from sports_lightning.train.fsdp import sharding_strategy
from sports_lightning.train.last_checkpoint import LastCheckpoint
from sports_lightning.train.validation_schedule import end_each_epoch_once

log = logging.getLogger(__name__)

_KINDS: dict[Any, type[Callback]] = {"best": ModelCheckpoint, "last": LastCheckpoint}


@dataclass(frozen=True)
class RunCallbacks:
    """The callbacks of a run, and the two of them that write its checkpoints."""

    all: list[Callback]
    best: ModelCheckpoint
    last: LastCheckpoint

    @property
    def average_weights(self) -> bool:
        """Whether one of them averages the weights, as `callbacks=[default,ema]` does."""
        return any(isinstance(callback, WeightAveraging) for callback in self.all)

    @property
    def further(self) -> int:
        """How many checkpoints they keep in addition to the best and the last, as far as that is limited."""
        return sum(max(c.save_top_k, 0) for c in self.all if isinstance(c, FurtherCheckpoints))


def build_callbacks(cfg: DictConfig) -> RunCallbacks:
    """Instantiate `conf/callbacks/*.yaml`.

    Raises:
        UserError: a callback is of another class than expected.
    """
    nodes = {name: node for name, node in cfg.get("callbacks", {}).items() if node}
    folder = Path(nodes["last"].path).parent
    built = {name: build_checkpoints(name, node, folder) for name, node in nodes.items()}
    callbacks = [callback for parts in built.values() for callback in parts]
    callbacks.sort(key=lambda callback: isinstance(callback, LastCheckpoint))  # it saves the state of the others
    for name, parts in built.items():
        if not isinstance(parts[0], _KINDS.get(name, Callback)):
            raise UserError(f"callbacks.{name} is not a {_KINDS.get(name, Callback).__name__}: set another _target_")
    return RunCallbacks(callbacks, built["best"][0], built["last"][0])


def count_processes(trainer: DictConfig) -> int:
    """Number of training processes, one per device, on all nodes together.

    Args:
        trainer: `conf/trainer/*.yaml`.

    Raises:
        UserError: devices that this machine does not have, or torchrun or srun has started another number of processes.
    """
    processes = len(_devices(trainer)) * trainer.num_nodes
    process = Process.from_environment()
    if process.is_externally_launched and process.world_size != processes:
        raise UserError(
            f"torchrun or srun has started {process.world_size} processes, but trainer.devices={trainer.devices} on "
            f"trainer.num_nodes={trainer.num_nodes} machines make {processes}: set trainer.devices to the number of "
            "processes per machine"
        )
    return processes


def training_device(trainer: DictConfig) -> torch.device:
    """The device on which this process trains.

    Args:
        trainer: `conf/trainer/*.yaml`.

    Raises:
        UserError: devices that this machine does not have.
    """
    devices = _devices(trainer)
    return devices[local_rank() % len(devices)]


def _devices(trainer: DictConfig) -> list[torch.device]:
    """The devices of this machine on which the run trains."""
    devices = OmegaConf.to_container(trainer.devices) if isinstance(trainer.devices, ListConfig) else trainer.devices
    try:
        accelerator = type(AcceleratorRegistry.get(device_type(trainer.accelerator)))
        if not accelerator.is_available():
            raise ValueError("there is no such device here")
        requested = accelerator.auto_device_count() if devices == "auto" else devices
        found = accelerator.get_parallel_devices(accelerator.parse_devices(requested))
    except Exception as error:  # Lightning's, of several types
        settings = f"trainer.accelerator={trainer.accelerator} trainer.devices={devices}"
        raise UserError(f"{settings}: {str(error).splitlines()[0]}") from error
    return list(found)


def choose_strategy(strategy: Any, processes: int, average_weights: bool) -> Any:
    """Return what Lightning's Trainer takes as `strategy`.

    Args:
        strategy: `trainer.strategy`: a name, or a node that Hydra instantiates.
        processes: see `count_processes`.
        average_weights: see `RunCallbacks`.

    Raises:
        UserError: sharded weights cannot be averaged.
    """
    if strategy == "fsdp":
        if average_weights:
            raise UserError("callbacks=[…,ema] needs unsharded weights: set trainer.strategy=ddp")
        return sharding_strategy()
    if not isinstance(strategy, str):
        return strategy
    if strategy == "auto" and processes > 2:
        # Plain DDP chooses the order in which it sums gradients in its first step, and a resumed run has another first
        # step; with this strategy the order is fixed. A sum of two numbers does not depend on it.
        return "ddp_find_unused_parameters_true"
    # ddp_spawn, ddp_fork and ddp_notebook pickle the job into their processes; here each reads it from the run folder.
    with_ddp = re.sub("_(spawn|fork|notebook)", "", strategy)
    if with_ddp != strategy:
        log.info("trainer.strategy=%s: its processes are started as for %s, for the same result", strategy, with_ddp)
    return with_ddp


def resume_may_round_differently(strategy: Any, processes: int) -> bool:
    """Whether gradients may be summed in another order after a resume (see `choose_strategy`)."""
    return processes > 2 and str(strategy).startswith("ddp") and not str(strategy).endswith("_true")


def build_trainer(trainer: DictConfig, strategy: Any, callbacks: list[Callback], loggers: list[Logger]) -> pl.Trainer:
    """Instantiate `conf/trainer/*.yaml`, with checkpoints that are written atomically, and no bar in a file."""
    plugins = [*(trainer.plugins or []), AtomicCheckpointIO()]
    shows_bar = trainer.enable_progress_bar
    if not shows_progress_bars():
        callbacks = [each for each in callbacks if not isinstance(each, TQDMProgressBar | RichProgressBar)]
        shows_bar = any(isinstance(each, ProgressBar) for each in callbacks)  # one of the user's own
    parts = {
        "strategy": strategy,
        "callbacks": callbacks,
        "logger": loggers,
        "plugins": plugins,
        "enable_progress_bar": shows_bar,
    }
    built: pl.Trainer = instantiate(trainer, **parts, _convert_="all")
    end_each_epoch_once(built)
    return built


@contextmanager
def stop_together(trainer: pl.Trainer) -> Iterator[None]:
    """On an exception, kill the processes that the training has started: other ranks and loader workers.

    Other ranks would wait for this one forever. Loader workers ignore other signals (see `ignore_signals`), and Python
    would wait for them at exit. Processes that existed before, such as those of a notebook, are left alone.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        for worker in set(multiprocessing.active_children()) - before:
            worker.kill()
        raise

"""What the commands share: compose the config, run the task in its run folder, turn a user's mistake into one line.

No torch in here: `--help` and `--cfg job` must answer at once.
"""

import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from string import Template

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sports_lightning import CONF_DIR
from sports_lightning.cli.c_libraries import tune_c_libraries
from sports_lightning.cli.distributed import (
    RUN_FOLDER,
    adopt_slurm_environment,
    broadcast_job,
    broadcast_no_job,
    load_job,
    receive_job,
)
from sports_lightning.cli.error_messages import one_line
from sports_lightning.config.checks import check_sweep
from sports_lightning.config.overrides import arguments_from, collect_positional, rename_keys
from sports_lightning.config.trusted_targets import check_targets
from sports_lightning.errors import Pruned, RunFolderLocked, UserError, WriteFailed
from sports_lightning.runs.process import is_externally_launched, is_rank_zero
from sports_lightning.runs.resume import LOCK, RESUMES, check_run_dir, find_interrupted, resume_command, resumed_folder
from sports_lightning.runs.signals import Interrupted, listen
from sports_lightning.storage.files import sync_to_disk
from sports_lightning.sweeps.jobs import BASIC_LAUNCHER, Sweep, SweepAborted, SweepJob
from sports_lightning.sweeps.resume import ResumedSweep, check_sweep_dir, resumed_sweep

# Warnings of libraries about their own insides or about choices that the config documents.
_IGNORED_WARNINGS = (
    ".*LeafSpec",
    ".*does not have many workers",
    ".*Checkpoint directory .* exists",
    ".*log_every_n_steps",
    ".*dataloader is not resumable",  # ours is, in a way of its own
    ".*sync_dist=True",  # of metrics that are every device's already
    ".*all_gather is deprecated",
    ".*`srun` command is available",  # processes are started without it, too
)

# Options of Hydra's that print something and run nothing.
_PRINT_ONLY_OPTIONS = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i")


def run_command(task: Callable[[DictConfig, Path], None], config_name: str, positional: str | None = None) -> None:
    """Compose `conf/<config_name>.yaml` with the command line, call `task(cfg, run_folder)`, and exit.

    Arguments that are neither options nor `KEY=VALUE`, or that are paths that exist, make up the list `positional`.

    The run folder's path is the last line on stdout. An error that a user can cause is one line on stderr and exit
    status 1; anything else is a bug of ours and keeps its traceback, as does everything with `debug=true` on the
    command line or under HYDRA_FULL_ERROR=1. A signal that ends the command (see interruption) is one line too, and
    exit status 128 + its number.

    The further processes of a distributed run, and each job of a sweep (`--job RUN_FOLDER`; see sweeps), do not compose
    again: they take the config that Hydra has written into the run folder (see job).
    """
    wants_traceback = "debug=true" in sys.argv or os.environ.get("HYDRA_FULL_ERROR") == "1"
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "debug=true"]  # no choice of the group
    sys.argv[1:], notices = rename_keys(sys.argv[1:])
    if is_rank_zero():
        for notice in notices:
            print(f"note: {notice}", file=sys.stderr)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print errors itself, in several lines; here they are ours
    if not wants_traceback:  # torch's C++ warns of what training asks it for on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    tune_c_libraries()
    for advice in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", advice)
    listen()
    adopt_slurm_environment()
    logging.raiseExceptions = False  # what a full disk keeps out of the log file has been printed
    exit_status = 0

    def report(error: Exception, more: str = "") -> None:
        nonlocal exit_status
        exit_status = 1
        line = one_line(error, config_name)
        if wants_traceback or line is None:
            raise error
        print(f"error: {line}{more}", file=sys.stderr)

    sweep = Sweep(config_name)
    of_sweep: ResumedSweep | None = None
    before: dict[Path, bytes] = {}  # what Hydra writes over in a run folder that is used again

    def compose(cfg: DictConfig) -> SweepJob | None:
        hydra_cfg = HydraConfig.get()
        folder = Path(hydra_cfg.runtime.output_dir).absolute()
        if hydra_cfg.output_subdir != ".hydra":
            _remove_if_nothing_was_written(folder)
            report(
                UserError("hydra.output_subdir has to stay .hydra: sweeps and several devices read the config there")
            )
            return None
        os.environ["HYDRA_FULL_ERROR"] = str(int(wants_traceback))  # for the processes that this one starts
        is_job = hydra_cfg.mode == RunMode.MULTIRUN
        try:
            if is_job:
                if is_externally_launched():
                    raise UserError("torchrun and srun can't start a sweep: run its jobs one by one, or leave them out")
                if of_sweep and not of_sweep.is_trusted:
                    check_targets(OmegaConf.to_container(cfg), f"resume={of_sweep.folder}")
                settings = cfg.get("sweep", {})
                if settings:
                    check_sweep(cfg)
                if hydra_cfg.launcher._target_ != BASIC_LAUNCHER:  # such as a cluster's, which sees to that itself
                    settings = {**settings, "parallel": 1}
                return sweep.run(folder, Path(hydra_cfg.sweep.dir), arguments_from(hydra_cfg), settings)
            if cfg.get("resume") == "auto" and (interrupted := find_interrupted(cfg, folder, before)):
                if interrupted != folder:
                    _remove_if_nothing_was_written(folder)
                resume(interrupted)
            else:
                run(cfg, folder)
        except UserError as error:
            if not is_job:
                report(error)
            elif hydra_cfg.launcher._target_ == BASIC_LAUNCHER:  # it would be the next job's too
                raise SweepAborted(error) from error
            else:  # the launcher brings it back
                raise
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"
        return None

    def run(cfg: DictConfig, folder: Path) -> None:
        os.environ[RUN_FOLDER] = str(folder)
        try:
            if is_rank_zero():
                sync_to_disk(folder / ".hydra")  # without it no checkpoint could be gone on with
                if is_externally_launched():
                    broadcast_job(folder)
            task(cfg, folder)
        except Pruned as pruned:
            if is_rank_zero():
                print(pruned, folder, sep="\n", flush=True)
        except Exception as error:
            if is_rank_zero() and not isinstance(error, RunFolderLocked):
                _remove_if_nothing_was_written(folder)
            report(error, _resume_hint(folder) if isinstance(error, WriteFailed) else "")
        except Interrupted as interrupted:
            nonlocal exit_status
            exit_status = interrupted.exit_status if is_rank_zero() else 0  # its own end says enough
            if is_rank_zero():
                _remove_if_nothing_was_written(folder)
                print(f"{interrupted}{_resume_hint(folder)}", file=sys.stderr)
        else:
            if is_rank_zero():
                print(folder, flush=True)
        finally:
            del os.environ[RUN_FOLDER]
            os.environ.pop(RESUMES, None)

    def resume(folder: Path) -> None:
        os.environ[RESUMES] = "1"
        cfg = load_job(folder)
        print(f"resuming {folder}", flush=True)
        run(cfg, folder)

    # In the midst of overrides Hydra's parser does not take it.
    sys.argv[1:] = arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    asks = any(argument in _PRINT_ONLY_OPTIONS for argument in arguments)
    try:
        if config_name != "train" and is_externally_launched() and not asks and os.environ["WORLD_SIZE"] != "1":
            raise UserError(f"{config_name} is one process's work: start one task, not {os.environ['WORLD_SIZE']}")
        of_sweep = resumed_sweep(arguments) if config_name == "train" else None
        if arguments[:1] == ["--job"]:
            run(load_job(Path(arguments[1])), Path(arguments[1]))
        elif is_externally_launched() and not is_rank_zero():
            if not asks:  # the first process answers
                run(*receive_job())
        elif RUN_FOLDER in os.environ and not is_rank_zero():
            run(load_job(Path(os.environ[RUN_FOLDER])), Path(os.environ[RUN_FOLDER]))
        elif config_name == "train" and not of_sweep and (folder := resumed_folder(arguments)):
            resume(folder)
        elif [argument for argument in arguments if argument.startswith("-")] == ["--help"]:
            print(_help(config_name, [argument for argument in arguments if argument != "--help"]))
        else:
            if positional:
                sys.argv[1:] = collect_positional(arguments, positional)
            before |= check_run_dir(arguments)
            if of_sweep:
                sys.argv[1:], _ = rename_keys(of_sweep.arguments)
                sweep.folder, sweep.kept = of_sweep.folder, of_sweep.kept
            else:
                check_sweep_dir(arguments, config_name)
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(compose)()
            sweep.finish()
    except SweepAborted as end:
        report(end.error)
    except (HydraException, OmegaConfBaseException, UserError, ValueError) as error:  # Hydra's own are ValueErrors too
        report(error)
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = "choose another place with hydra.run.dir=FOLDER"
        report(UserError(f"can't write {error.filename}: {error.strerror}; {where}"))
    except Interrupted as interrupted:  # before there was a run, or in a sweep, whose jobs have runs
        exit_status = interrupted.exit_status
        print(interrupted, file=sys.stderr)
        sweep.interrupt(interrupted)
    finally:
        sweep.stop(signal.SIGTERM)  # what still runs after an error
        if config_name == "train" and is_externally_launched() and is_rank_zero() and not asks:
            with suppress(UserError):
                broadcast_no_job()
    if sweep.jobs or of_sweep:
        try:
            lacking = sweep.print_summary()
            exit_status = exit_status or int(lacking)
        except WriteFailed as error:
            report(error)
    sys.exit(exit_status)


def _resume_hint(folder: Path) -> str:
    command = resume_command(folder)
    return f"; to go on: {command}" if command else ""


def _help(config_name: str, overrides: list[str]) -> str:
    """What Hydra's own `--help` prints from `conf/hydra/*.yaml`, in half the time: it parses every group twice."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose(config_name, overrides, return_hydra_config=True)
    template, groups = cfg.hydra.help.template, []
    for folder in sorted(
        path for path in CONF_DIR.iterdir() if path.is_dir() and path.name in cfg.hydra.runtime.choices
    ):
        if folder.name != "hydra":
            groups.append(f"{folder.name}: {', '.join(sorted(file.stem for file in folder.glob('*.yaml')))}")
    with open_dict(cfg):
        del cfg.hydra
    return Template(template).substitute(APP_CONFIG_GROUPS="\n".join(groups), CONFIG=OmegaConf.to_yaml(cfg))


def _remove_if_nothing_was_written(folder: Path) -> None:
    """Remove a run folder that holds nothing but what was put there at start-up."""
    log = folder / f"{HydraConfig.get().job.name}.log"
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".hydra", LOCK, log.name}:
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
        for file in (log, folder / LOCK):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # a network drive keeps a file that is open under another name
            folder.rmdir()

"""Train a classifier from Python, with the config, the results and the run folder of the command `train`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.utilities.seed import isolate_rng

from sports_lightning import CONF_DIR
from sports_lightning.api.dataset_folder import Images, provide_dataset_folder
from sports_lightning.api.image_classifier import quiet_lightning
from sports_lightning.api.run import Run
from sports_lightning.audit.scan import open_and_scan
from sports_lightning.config.checks import check_train
from sports_lightning.config.overrides import format_command, rename_keys
from sports_lightning.errors import UserError
from sports_lightning.runs.provenance import collect_provenance
from sports_lightning.runs.resume import (
    LAST_CHECKPOINT,
    check_unfinished,
    has_checkpoint,
    lock_run_folder,
    release_run_folder,
    settings_fingerprint,
    stored_settings,
)
from sports_lightning.runs.signals import Interrupted
from sports_lightning.storage.files import write_text
from sports_lightning.train.finish import finish_run
from sports_lightning.train.fit import fit
from sports_lightning.train.resolved_config import training_splits

log = logging.getLogger(__name__)


def finetune(
    model: str,
    train: Images,
    val: Images | None = None,
    test: Images | None = None,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
) -> Run:
    """Train a classifier and evaluate its best checkpoint, as the command `train` does, on one device.

    Nothing is sent to a dashboard, unless `overrides` chooses one (`logger=wandb`). The global states of random number
    generators, of deterministic algorithms and of signal handlers are restored afterwards.

    Args:
        model: a config of `conf/model` such as "scratch_cnn" or "resnet50", or a model name of timm.
        train: a folder with `train/`, `valid/` and maybe `test/`; or, together with `val`, a folder with one sub-folder
            per class, or an `ImageSource`. The images of a source are written to `RUN/data` as PNG files first, so that
            the run can be resumed and reproduced from its folder.
        val: the validation images, from which the best epoch is chosen.
        test: the test images.
        overrides: as on the command line, such as `["finetune=head", "trainer.max_epochs=3"]`.
        run_dir: the run folder; None: a new one below `outputs/train`. An interrupted run there is resumed.

    Raises:
        UserError: settings or data that cannot work, or a folder that holds a finished run.
        KeyboardInterrupt: the kernel was interrupted; the run is saved and can be resumed.
    """
    names, notices = rename_keys([*_model_overrides(model), "logger=csv", "trainer.devices=1", *overrides])
    for notice in notices:
        log.warning("%s", notice)
    _, folder = _compose(names, None if run_dir is None else Path(run_dir).expanduser().absolute())
    check_unfinished(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock_run_folder(folder)
    try:
        root = provide_dataset_folder(train, val, test, folder / "data")
        names += [f"data.root={_quoted(str(root))}", f"test={str((root / 'test').is_dir()).lower()}"]
        cfg, _ = _compose(names, folder)
        hydra_cfg = cfg.hydra
        with open_dict(cfg):
            del cfg["hydra"]
        check_train(cfg)
        last = folder / LAST_CHECKPOINT
        if not last.exists():
            _write_hydra_files(cfg, hydra_cfg, names, folder)
        elif stored_settings(folder) != settings_fingerprint(cfg):
            raise UserError(f"{folder} holds an interrupted run with other settings: choose another run_dir")
        with isolate_rng(), _torch_settings_restored(), quiet_lightning():
            _train(cfg, folder, names, last if last.exists() else None)
    except Interrupted as interrupted:
        resume = f"; call finetune again with run_dir={str(folder)!r} to resume" if has_checkpoint(folder) else ""
        raise KeyboardInterrupt(f"{interrupted}{resume}") from None
    finally:
        release_run_folder(folder)
    return Run(folder)


def _train(cfg: DictConfig, folder: Path, overrides: list[str], resume_from: Path | None) -> None:
    index, scan = open_and_scan(cfg.data, training_splits(cfg))
    provenance = collect_provenance(format_command("train", overrides), cfg.seed, index.provenance())
    run = fit(cfg, index, folder, provenance, resume_from)
    finish_run(run, scan, provenance, folder)


def _model_overrides(model: str) -> list[str]:
    if (CONF_DIR / "model" / f"{model}.yaml").is_file() and model != "timm":
        return [f"model={model}"]
    return ["model=timm", f"model.name={_quoted(model)}"]


def _quoted(value: str) -> str:
    """`value` as a quoted string of Hydra's override grammar."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _compose(overrides: list[str], folder: Path | None) -> tuple[DictConfig, Path]:
    """`conf/train.yaml` with Hydra's own part, and the run folder in it."""
    if any(
        override.key_or_group == "hydra.run.dir" for override in OverridesParser.create().parse_overrides(overrides)
    ):
        raise UserError("pass the run folder as run_dir instead of hydra.run.dir")
    more = [] if folder is None else [f"hydra.run.dir={_quoted(str(folder))}"]
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("train", [*overrides, *more], return_hydra_config=True)
        run_dir = Path(cfg.hydra.run.dir).absolute()
    with open_dict(cfg):
        cfg.hydra.job.name = "train"
        cfg.hydra.runtime.output_dir, cfg.hydra.runtime.cwd = str(run_dir), str(Path.cwd())
    return cfg, run_dir


def _write_hydra_files(cfg: DictConfig, hydra_cfg: DictConfig, overrides: list[str], folder: Path) -> None:
    """Write the files by which `train resume=`, `compare` and `reproduce` know a run, as Hydra does."""
    (folder / ".hydra").mkdir(exist_ok=True)
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))
    write_text(folder / ".hydra" / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra_cfg})))
    write_text(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))


@contextmanager
def _torch_settings_restored() -> Iterator[None]:
    """Restore torch's global settings that a training changes."""
    before: Any = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
    )
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
        torch.set_float32_matmul_precision(before[3])

"""Train a classifier from Python, with the config, the results and the run folder of the command `train`."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sports_lightning import CONF_DIR
from sports_lightning.api.dataset_folder import (
    Images,
    check_splits,
    dataset_root,
    given_splits,
    holds_test_images,
    write_splits,
)
from sports_lightning.api.global_state import global_state_restored
from sports_lightning.api.image_classifier import quiet_lightning
from sports_lightning.api.run import Run
from sports_lightning.audit.scan import scan_opened
from sports_lightning.cli.error_messages import one_line
from sports_lightning.config.checks import check_train
from sports_lightning.config.overrides import format_command, quote_value, rename_keys
from sports_lightning.config.path_values import quote_paths
from sports_lightning.data.image_folder import check_outside_classes
from sports_lightning.errors import UserError
from sports_lightning.runs.continuation import continued_checkpoint
from sports_lightning.runs.provenance import collect_provenance
from sports_lightning.runs.resume import (
    LAST_CHECKPOINT,
    has_checkpoint,
    lock_run_folder,
    release_run_folder,
    settings_fingerprint,
    upgraded_settings,
)
from sports_lightning.runs.signals import Interrupted
from sports_lightning.storage.files import write_text
from sports_lightning.train.finish import finish_run
from sports_lightning.train.fit import fit
from sports_lightning.train.training_images import open_training_images

log = logging.getLogger(__name__)

_ARGUMENTS = {  # of finetune, by the config key that they replace
    "data": "train, val and test",
    "data.root": "train, val and test",
    "hydra.run.dir": "run_dir",
    "resume": "run_dir",
}


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
        train: a folder with all images, as for `data.root`; or, together with `val`, a folder with one sub-folder per
            class, or an `ImageSource`. The images of a source are written to `RUN/data` as PNG files first, so that the
            run can be resumed and reproduced from its folder.
        val: the validation images, from which the best epoch is chosen.
        test: the test images.
        overrides: as on the command line, such as `["finetune=head", "trainer.max_epochs=3"]`. Data and run folder are
            arguments instead.
        run_dir: the run folder; None: a new one below `outputs/train`. An interrupted run there is resumed.

    Raises:
        UserError: settings or data that cannot work, or a folder that holds a finished run.
        KeyboardInterrupt: the kernel was interrupted; the run is saved and can be resumed.
    """
    started = time.monotonic()
    names, folder = _all_overrides(model, train, val, test, overrides, run_dir)
    cfg, hydra_cfg = _compose(names, folder)
    check_train(cfg)
    for images in (train, val, test):
        if isinstance(images, str | Path):
            check_outside_classes(folder, Path(images).expanduser(), "run_dir")
    _check_no_open_run(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    lock_run_folder(folder)
    try:
        _prepare_data(cfg, given_splits(train, val, test), folder)
        if not has_checkpoint(folder):
            _write_hydra_files(cfg, hydra_cfg, names, folder)
        with global_state_restored(), quiet_lightning():
            _train(cfg, folder, names, started)
    except (Interrupted, KeyboardInterrupt) as interrupted:
        resume = f"; call finetune again with run_dir={str(folder)!r} to resume" if has_checkpoint(folder) else ""
        raise KeyboardInterrupt(f"{str(interrupted) or 'interrupted'}{resume}") from None
    finally:
        _finish_open_run()
        release_run_folder(folder)
    return Run(folder)


def _check_no_open_run(cfg: DictConfig) -> None:
    """Raise UserError if a W&B logger would write into a run that the caller has opened."""
    targets = [str(logger.get("_target_")) for logger in (cfg.logger or {}).values()]
    if _open_run() and any("wandb" in target for target in targets):
        raise UserError("a run of W&B is open in this process: end it with wandb.finish() before finetune")


def _finish_open_run() -> None:
    """End the run of W&B that a failed training has left, into which a later one would write."""
    if sys.exc_info()[0] and (run := _open_run()):
        run.finish(exit_code=1)


def _open_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def _all_overrides(
    model: str,
    train: Images,
    val: Images | None,
    test: Images | None,
    overrides: Sequence[str],
    run_dir: str | Path | None,
) -> tuple[list[str], Path]:
    """The overrides of a run, those of the user last, and its folder."""
    given, notices = rename_keys(list(overrides))
    for notice in notices:
        log.warning("%s", notice)
    given = quote_paths(given)
    for override in OverridesParser.create().parse_overrides(given):
        if argument := _ARGUMENTS.get(override.key_or_group):
            raise UserError(f"pass {argument} to finetune instead of the override {override.key_or_group}=")
    base = [*_model_overrides(model), "logger=csv", "trainer.devices=1"]
    folder = Path(run_dir or _compose([*base, *given])[1].runtime.output_dir).expanduser().absolute()
    root = dataset_root(train, val, test, folder / "data")
    has_test = holds_test_images(root) if val is None else test is not None
    return [*base, f"data.root={quote_value(str(root))}", f"test={str(has_test).lower()}", *given], folder


def _prepare_data(cfg: DictConfig, splits: dict[str, Images], folder: Path) -> None:
    """Write the images of a new run; check that a resumed run has the same images and settings."""
    if has_checkpoint(folder):
        if upgraded_settings(folder) != settings_fingerprint(cfg):
            raise UserError(f"{folder} holds an interrupted run with other settings: choose another run_dir")
        check_splits(splits, folder / "data")
    elif splits:
        write_splits(splits, folder / "data")


def _train(cfg: DictConfig, folder: Path, overrides: list[str], started: float) -> None:
    index = open_training_images(cfg, folder)
    scan = scan_opened(index, cfg.data)
    provenance = collect_provenance(
        format_command("train", overrides), cfg.seed, index.provenance(), cfg.trainer.accelerator
    )
    resume_from = folder / LAST_CHECKPOINT if has_checkpoint(folder) else continued_checkpoint(cfg)
    run = fit(cfg, index, folder, provenance, resume_from, started=started)
    finish_run(run, scan, provenance, folder)


def _model_overrides(model: str) -> list[str]:
    if (CONF_DIR / "model" / f"{model}.yaml").is_file() and model != "timm":
        return [f"model={model}"]
    return ["model=timm", f"model.name={quote_value(model)}"]


def _compose(overrides: list[str], folder: Path | None = None) -> tuple[DictConfig, DictConfig]:
    """`conf/train.yaml` and Hydra's own config, in which `runtime.output_dir` is the run folder."""
    more = [] if folder is None else [f"hydra.run.dir={quote_value(str(folder))}"]
    with _own_hydra():
        try:
            with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                cfg = hydra.compose("train", [*overrides, *more], return_hydra_config=True)
                run_dir = Path(cfg.hydra.run.dir).absolute()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(one_line(error, "train") or str(error)) from error
    with open_dict(cfg):
        hydra_cfg = cfg.pop("hydra")
    with open_dict(hydra_cfg):
        hydra_cfg.job.name = "train"
        hydra_cfg.runtime.output_dir, hydra_cfg.runtime.cwd = str(run_dir), str(Path.cwd())
    return cfg, hydra_cfg


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Compose also within a program of the caller that uses Hydra."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def _write_hydra_files(cfg: DictConfig, hydra_cfg: DictConfig, overrides: list[str], folder: Path) -> None:
    """Write the files by which `train resume=`, `compare` and `reproduce` know a run, as Hydra does."""
    (folder / ".hydra").mkdir(exist_ok=True)
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))
    write_text(folder / ".hydra" / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra_cfg})))
    write_text(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))

"""Train a classifier, then test the best checkpoint: `python -m sports_lightning.train data=sample`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_train
from sports_lightning.runs.process import is_rank_zero
from sports_lightning.runs.resume import LAST_CHECKPOINT, lock_run_folder


def train(cfg: DictConfig, folder: Path) -> None:
    """Fit, choose the checkpoint with the best validation accuracy, and write its metrics into `folder`."""
    check_train(cfg)
    if is_rank_zero():
        lock_run_folder(folder)
    last = folder / LAST_CHECKPOINT
    resume_from = last if cfg.resume and last.exists() else None
    from sports_lightning.audit.scan import scan_dataset
    from sports_lightning.data.source import open_dataset
    from sports_lightning.storage.disk_cache import resolve_cache_dir

    index = open_dataset(cfg.data, ["train", "val", "test"] if cfg.test else ["train", "val"])
    seen = scan_dataset(index.root, resolve_cache_dir(cfg.data)) if cfg.data.audit and is_rank_zero() else None
    with quick_imports():  # torch and all, only once the data is known to be good
        from sports_lightning.runs.provenance import collect_provenance
        from sports_lightning.train.finish import write_results
        from sports_lightning.train.fit import fit

    provenance = (
        collect_provenance(cfg, index.provenance()) if is_rank_zero() else {}
    )  # now: the code may change while the run goes on
    run = fit(cfg, index, provenance, resume_from)
    if is_rank_zero():
        write_results(cfg, run, seen, provenance, folder)


COMMAND = Command("train", train, resumable=True, distributed=True)

if __name__ == "__main__":
    sys.exit(main(COMMAND))

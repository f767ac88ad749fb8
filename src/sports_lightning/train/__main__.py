"""Train a classifier, then test the best checkpoint: `python -m sports_lightning.train data=sample`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.composed_command import composed_command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_train
from sports_lightning.runs.layout import is_finished
from sports_lightning.runs.process import is_rank_zero
from sports_lightning.runs.resume import LAST_CHECKPOINT, lock_run_folder


def train(cfg: DictConfig, folder: Path) -> None:
    """Fit, choose the checkpoint with the best validation metric, and write its metrics and decorations to `folder`.

    If a finished run is resumed, its missing decorations are drawn.
    """
    check_train(cfg)
    if cfg.resume and is_finished(folder):
        from sports_lightning.train.decorations import complete_decorations

        complete_decorations(folder)
        return
    if is_rank_zero():
        lock_run_folder(folder)
    from sports_lightning.audit.scan import scan_dataset
    from sports_lightning.data.source import open_dataset
    from sports_lightning.storage.disk_cache import resolve_cache_dir

    index = open_dataset(cfg.data, ["train", "val", "test"] if cfg.test else ["train", "val"])
    scan = scan_dataset(index.root, resolve_cache_dir(cfg.data)) if cfg.data.audit and is_rank_zero() else None
    with quick_imports():  # torch is imported only once the data is known to be good
        from sports_lightning.runs.provenance import collect_provenance
        from sports_lightning.sweeps.pruning import reports_to_search
        from sports_lightning.train.finish import finish_run
        from sports_lightning.train.fit import fit

    # Collected before the training, since the code may change meanwhile.
    provenance = collect_provenance(composed_command(), cfg.seed, index.provenance()) if is_rank_zero() else {}
    last = folder / LAST_CHECKPOINT
    resume_from = last if cfg.resume and last.exists() else None
    run = fit(cfg, index, folder, provenance, resume_from, reports_to_search())
    if is_rank_zero():
        finish_run(run, scan, provenance, folder)


COMMAND = Command("train", train, resumable=True, distributed=True)

if __name__ == "__main__":
    sys.exit(main(COMMAND))

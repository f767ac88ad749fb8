"""Train a classifier, then test the best checkpoint: `python -m sports_lightning.train data=sample`."""

import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.composed_command import composed_command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_train
from sports_lightning.errors import UserError
from sports_lightning.runs.continuation import continued_checkpoint
from sports_lightning.runs.layout import SPLIT_FILE, SPLIT_INFO, is_finished
from sports_lightning.runs.process import Process, is_rank_zero
from sports_lightning.runs.resume import LAST_CHECKPOINT, RESUMES, check_resumable, lock_run_folder
from sports_lightning.sweeps.resume import is_kfold


def train(cfg: DictConfig, folder: Path) -> None:
    """Fit, choose the checkpoint with the best validation metric, and write its metrics and decorations to `folder`.

    If a finished run is resumed, its missing decorations are drawn.
    """
    check_train(cfg)
    if cfg.resume and is_finished(folder):
        if is_rank_zero():
            from sports_lightning.train.decorations import complete_decorations

            complete_decorations(folder)
        return
    resume_from = checkpoint_to_resume(cfg, folder) or continued_checkpoint(cfg)
    if is_rank_zero():
        lock_run_folder(folder)
    from sports_lightning.train.training_images import open_training_images

    index = open_training_images(cfg, folder)
    if is_rank_zero():
        from sports_lightning.audit.known_suspects import find_suspects

        find_suspects(cfg.data.suspects, index)  # an error in the file is reported before the training
    with quick_imports():  # torch is imported only once the data is known to be good
        from sports_lightning.runs.provenance import collect_provenance
        from sports_lightning.sweeps.pruning import reports_to_search
        from sports_lightning.train.finish import finish_run
        from sports_lightning.train.fit import fit
        from sports_lightning.train.results import scan_if_possible

    # Collected before the training, since the code may change meanwhile.
    provenance = {}
    if is_rank_zero():
        provenance = collect_provenance(composed_command(), cfg.seed, index.provenance(), cfg.trainer.accelerator)
    run = fit(cfg, index, folder, provenance, resume_from, reports_to_search())
    if is_rank_zero():
        # Scanned after the training, since the other ranks would wait meanwhile and might give up.
        finish_run(run, scan_if_possible(index, cfg.data), provenance, folder)


def pool_folds_of_sweep(sweep_folder: Path, jobs: dict[Path, list[str]]) -> bool:
    """Pool the folds of a finished `sweep=kfold`, and return whether that has a result; other sweeps have no folds."""
    if not is_kfold(sweep_folder):
        return True
    with quick_imports():
        from sports_lightning.train.kfold import pool_folds
    return pool_folds(sweep_folder, jobs)


def checkpoint_to_resume(cfg: DictConfig, folder: Path) -> Path | None:
    """The last checkpoint in `folder`, if the run is resumed from one.

    Raises:
        UserError: the first rank resumes from a checkpoint that this rank cannot see.
    """
    last = folder / LAST_CHECKPOINT
    if cfg.resume and last.exists():
        return last
    if os.environ.get(RESUMES) == str(LAST_CHECKPOINT):
        rank = Process.from_environment().rank
        raise UserError(
            f"rank {rank} does not see {last}, from which rank 0 resumes: use a run folder on a shared disk"
        )
    return None


COMMAND = Command(
    "train",
    train,
    resume=check_resumable,
    distributed=True,
    first_files=(SPLIT_FILE, SPLIT_INFO),
    after_sweep=pool_folds_of_sweep,
)

if __name__ == "__main__":
    sys.exit(main(COMMAND))

"""Train a classifier, then test the best checkpoint: `python -m sports_lightning.train data=sample`."""

from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli import run_command
from sports_lightning.config import check_train
from sports_lightning.importing import quick_imports
from sports_lightning.job import is_rank_zero
from sports_lightning.resume import LAST_CHECKPOINT, claim


def train(cfg: DictConfig, folder: Path) -> None:
    """Fit, choose the checkpoint with the best validation accuracy, and write its figures into `folder`."""
    check_train(cfg)
    if is_rank_zero():
        claim(folder)
    last = folder / LAST_CHECKPOINT
    resume_from = last if cfg.resume and last.exists() else None
    from sports_lightning.data.source import open_dataset
    from sports_lightning.data.store import cache_dir_of
    from sports_lightning.inspection.survey import survey

    index = open_dataset(cfg.data, ["train", "val", "test"] if cfg.test else ["train", "val"])
    seen = survey(index.root, cache_dir_of(cfg.data)) if cfg.data.audit and is_rank_zero() else None
    with quick_imports():  # torch and all, only once the data is known to be good
        from sports_lightning.record import record
        from sports_lightning.results import write_results
        from sports_lightning.training import fit

    facts = record(cfg, index) if is_rank_zero() else {}  # now: the code may change while the run goes on
    run = fit(cfg, index, facts, resume_from)
    if is_rank_zero():
        write_results(cfg, run, seen, facts, folder)


if __name__ == "__main__":
    run_command(train, "train")

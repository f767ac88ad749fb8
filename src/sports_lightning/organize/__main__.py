"""Sort photographs into folders: `python -m sports_lightning.organize ckpt_path=RUN input=PHOTOS to=SORTED`."""

import logging
import sys
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_organize
from sports_lightning.config.overrides import format_command
from sports_lightning.errors import UserError
from sports_lightning.organize import application
from sports_lightning.organize.decisions_file import add_decisions
from sports_lightning.organize.journal import Journal
from sports_lightning.organize.operations import plan_operations, write_keywords
from sports_lightning.organize.plan import TABLE, Plan
from sports_lightning.organize.targets import Pattern

log = logging.getLogger(__name__)

_SHOWN = 20  # names that got a number


def organize(cfg: DictConfig, folder: Path) -> None:
    """Plan, check or apply a plan, or undo an application; only the first needs torch.

    Args:
        cfg: `conf/organize.yaml`.
        folder: the run folder.
    """
    check_organize(cfg)
    Pattern(cfg.pattern).check()
    if cfg.undo:
        _undo(Path(cfg.undo).expanduser().absolute())
        return
    table = _table(Path(cfg.plan).expanduser().absolute()) if cfg.plan else folder / TABLE
    if cfg.plan and not cfg.apply:
        _check(table)
        return
    has_plan = bool(cfg.plan) or _plan(cfg, folder)
    if cfg.apply and has_plan:
        _apply(table, folder)


def _table(plan: Path) -> Path:
    """The table of a plan, which is given as its run folder or as a table in it, such as `plan (1).csv`.

    Raises:
        UserError: another kind of file.
    """
    if plan.is_file() and plan.suffix.lower() != ".csv":
        raise UserError(f"plan={plan} is not the run folder of a plan, or the edited table in it, such as {TABLE}")
    return plan if plan.is_file() else plan / TABLE


def _plan(cfg: DictConfig, folder: Path) -> bool:
    """Write a plan, and return whether there is anything to be done."""
    with quick_imports():
        from sports_lightning.data.formats import limit_pixels
        from sports_lightning.inference.exported import open_classifier
        from sports_lightning.organize.plan_page import write_plan_page
        from sports_lightning.organize.planning import make_plan
        from sports_lightning.reports.decorations import draw_missing

    limit_pixels(cfg.data.max_pixels)
    classifier = open_classifier(str(cfg.ckpt_path))
    classifier.set_crop_mode(cfg.data.crop_mode)
    plan = make_plan(classifier, cfg)
    if plan is None:
        print("there is nothing new")
        return False
    plan.write(folder)
    value_range = classifier.preprocessing.value_range
    draw_missing({"plan.html": lambda _: write_plan_page(plan, classifier.spec.classes, value_range, folder)}, folder)
    counts = Counter(image.decision for image in plan.images)
    print(f"{len(plan.images):,} images: {', '.join(f'{count:,} {name}' for name, count in counts.most_common())}")
    if not cfg.apply:
        print(f"nothing was touched; look at {folder / 'plan.html'} or edit plan.csv, then apply the plan:")
        print(f"    {format_command('organize', [f'plan={folder}', 'apply=true'])}")
    return True


def _check(table: Path) -> None:
    """Read the edited table of a plan, and tell what applying it would do.

    Raises:
        UserError: the plan is applied already, its table is wrong, a file is gone or has changed, or a target exists.
    """
    application.check_not_applied(table.parent)
    plan = Plan.read(table.parent).with_edits(table)
    operations = plan_operations(plan)
    application.check_operations(operations)
    _show_conflicts(plan)
    counts = Counter(image.label or "without a label" for image in plan.images if image.target)
    more = len(operations) - counts.total()
    by_label = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
    print(f"{counts.total():,} images and {more:,} files beside them would be in {plan.to}: {by_label}")
    print("nothing was touched; to apply the plan:")
    print(f"    {format_command('organize', [f'plan={_named(table)}', 'apply=true'])}")


def _named(table: Path) -> Path:
    """What names the plan of this table on the command line."""
    return table.parent if table.name == TABLE else table


def _show_conflicts(plan: Plan) -> None:
    for image in [image for image in plan.images if image.conflict][:_SHOWN]:
        log.info("%s becomes %s: %s", image.image, image.target, image.conflict)


def _apply(table: Path, folder: Path) -> None:
    plan = Plan.read(table.parent)
    with application.only_process(Path(plan.to)), application.applied_once(table.parent, folder):
        plan = plan.with_edits(table)
        operations = plan_operations(plan)
        application.apply(Journal.of(Path(plan.to), operations), folder)
        if "csv" in plan.tags:
            write_keywords(plan, folder / "tags.csv")
        add_decisions(Path(plan.to), plan.images, str(folder))
    _show_conflicts(plan)
    print(f"{len(operations):,} files in {plan.to}; to put everything back:")
    print(f"    {format_command('organize', [f'undo={folder}'])}")


def _undo(folder: Path) -> None:
    journal = Journal.read(folder)
    with application.only_process(Path(journal.to)):
        kept = application.undo(folder)
    application.report_kept(kept)
    print(f"{len(journal.operations) - len(kept):,} of {len(journal.operations):,} files are as before")
    if kept:
        raise UserError(
            f"{len(kept)} files were kept at their new place: see above, and undo again once that is mended"
        )


COMMAND = Command("organize", organize)

if __name__ == "__main__":
    sys.exit(main(COMMAND))

"""Finished runs side by side, and which of them can be told apart. No torch in here."""

import itertools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sports_lightning.compare.significance import PairedDifference, holm, mean_and_error, paired_difference
from sports_lightning.errors import UserError
from sports_lightning.evaluate.intervals import format_metric
from sports_lightning.reports.html import chart, write_page
from sports_lightning.runs.layout import curve, is_finished
from sports_lightning.runs.provenance import flatten, read_provenance
from sports_lightning.storage.files import read_csv, write_json

ALPHA = 0.05
_SHOWN_DIFFERENCES = 6  # of a run's settings, in the terminal
_SHOWN_PAIRS = 15
_COLUMNS = ("val acc", "val loss", "test acc", "test loss", "parameters", "img/s", "seconds")

# Where a run writes and how it is watched are not what it did.
_NOT_SETTINGS = (
    "logger.",
    "resume.",
    "data.root.",
    "data.cache.",
    "data.cache_dir.",
    "data.num_workers.",
    "inference.num_workers.",
)


@dataclass(frozen=True)
class Run:
    """What a run folder of `train` or `evaluate` says.

    Attributes:
        name: the folder, as short as it can be told from the others.
        folder: the run's.
        config: {dotted key: value}, as composed.
        metrics: of `metrics.json`.
        provenance: of `run.json`.
        epochs: rows of `metrics.csv`; none for an evaluation.
        split: the one that `predictions.csv` is of.
        correct: which of its images are predicted right, in order.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    epochs: list[dict[str, str]]
    split: str
    correct: list[bool]

    @property
    def data(self) -> str:
        """The fingerprint of the images that were predicted."""
        return str(self.provenance["data"][self.split]["fingerprint"])


class Pairing(NamedTuple):
    """Two runs on the same images; `p_holm` is corrected for all pairings that are made together."""

    first: str
    second: str
    split: str
    images: int
    result: PairedDifference
    p_holm: float

    @property
    def verdict(self) -> str:
        """In words."""
        if self.p_holm >= ALPHA:
            return "not distinguishable"
        return f"{self.first if self.result.difference > 0 else self.second} is better"


class SeedGroup(NamedTuple):
    """Runs that differ in their seed alone: {metric: (mean, standard error)}."""

    runs: list[str]
    metrics: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """Runs, what is different between their settings, and what can be said of their metrics."""

    runs: list[Run]
    differing: list[str]
    seeds: list[SeedGroup]
    pairings: list[Pairing]
    not_paired: list[str]

    def settings(self, run: Run) -> dict[str, Any]:
        """The settings of `run` that others have otherwise."""
        return {key: run.config.get(key) for key in self.differing}


def read_runs(folders: list[str]) -> tuple[list[Run], dict[Path, str]]:
    """The finished runs at or below `folders`, and the folders of the others with the reason.

    Raises:
        UserError: a folder that is not there, or no finished run in any.
    """
    found: dict[Path, bool] = {}
    for name in folders:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder: pass run folders, or folders that hold some, as in outputs/train"
            )
        for config in sorted(folder.glob("**/.hydra/config.yaml")):
            run = config.parents[1]
            if _command(run) in ("train", "evaluate"):
                found[run.absolute()] = is_finished(run)
    finished = [folder for folder, has_ended in found.items() if has_ended]
    left_out = {folder: "not finished" for folder, has_ended in found.items() if not has_ended}
    common = os.path.commonpath([folder.parent for folder in finished]) if finished else ""
    runs = []
    for folder in finished:
        try:
            runs.append(_read(folder, os.path.relpath(folder, common)))
        except (OSError, ValueError, LookupError, TypeError) as error:
            left_out[folder] = f"not a whole run folder of this version ({type(error).__name__}: {error})"
    if not runs:
        raise UserError(f"no finished run in {', '.join(folders)}: train and evaluate write metrics.json")
    return runs, left_out


def compare_runs(runs: list[Run]) -> Comparison:
    """Pair all runs that predicted the same images, and average those that differ in their seed alone."""
    keys = sorted({key for run in runs for key in run.config})
    differing = [key for key in keys if len({repr(run.config.get(key)) for run in runs}) > 1]
    compared, not_paired = [], []
    for first, second in itertools.combinations(runs, 2):
        if (first.split, first.data) != (second.split, second.data):
            not_paired.append(
                f"{first.name} and {second.name}: different data "
                f"({first.split} {first.data[:8]}, {second.split} {second.data[:8]})"
            )
        else:
            compared.append((first, second, paired_difference(first.correct, second.correct)))
    corrected = holm([result.p_value for _, _, result in compared])
    pairings = [
        Pairing(first.name, second.name, first.split, len(first.correct), result, p)
        for (first, second, result), p in zip(compared, corrected, strict=True)
    ]
    return Comparison(runs, differing, _seed_groups(runs), pairings, not_paired)


def print_comparison(comparison: Comparison) -> None:
    """Print the runs, the means over seeds and the pairings as tables."""
    console = Console()
    table = Table(Column("run, settings that differ", overflow="fold"), "val", "test", "parameters", "img/s", "seconds")
    for run in comparison.runs:
        settings = [f"{key}={value}" for key, value in comparison.settings(run).items() if value is not None]
        more = [f"… and {len(settings) - _SHOWN_DIFFERENCES} more"] if len(settings) > _SHOWN_DIFFERENCES else []
        val_acc, val_loss, test_acc, test_loss, *provenance = columns(run).values()
        metrics = ("\nloss ".join((acc.replace(" ", "\n"), loss.split(" ")[0])) if acc else "" for acc, loss in (
            (val_acc, val_loss), (test_acc, test_loss),
        ))  # fmt: skip
        table.add_row(escape("\n".join([run.name, *settings[:_SHOWN_DIFFERENCES], *more])), *metrics, *provenance)
    console.print(table)
    for group in comparison.seeds:
        means = (f"{name} {mean:.4f} ± {error:.4f}" for name, (mean, error) in group.metrics.items())
        console.print(f"{len(group.runs)} seeds, mean ± standard error: {', '.join(means)}", soft_wrap=True)
        console.print(f"  {escape(', '.join(group.runs))}", soft_wrap=True)
    pairs = Table(
        "pair", "accuracy difference", "only one right", "p", "p (Holm)", Column("in words", overflow="fold"),
        caption="McNemar's exact test, image by image; 95 % intervals",
    )  # fmt: skip
    for pair in comparison.pairings[:_SHOWN_PAIRS]:
        result = pair.result
        pairs.add_row(
            escape(f"{pair.first}\n{pair.second}"),
            f"{result.difference:+.4f}\n({result.low:+.4f} to {result.high:+.4f})",
            f"{result.only_first} and {result.only_second}\nof {pair.images} {pair.split}",
            f"{result.p_value:.2g}", f"{pair.p_holm:.2g}", escape(pair.verdict),
        )  # fmt: skip
    if comparison.pairings:
        console.print(pairs)
    if len(comparison.pairings) > _SHOWN_PAIRS:
        console.print(f"… and {len(comparison.pairings) - _SHOWN_PAIRS} more pairs in compare.html")
    for line in comparison.not_paired:
        console.print(f"not paired: {escape(line)}", soft_wrap=True)


def columns(run: Run) -> dict[str, str]:
    """The metrics by which runs are told apart, as text; "" where a run has none."""

    def metric(split: str, name: str) -> str:
        return format_metric(run.metrics.get(split, {}), name, digits=3)

    def fact(name: str, form: str) -> str:
        return format(run.provenance[name], form) if name in run.provenance else ""

    values = [metric("val", "acc"), metric("val", "loss"), metric("test", "acc"), metric("test", "loss")]
    return dict(
        zip(
            _COLUMNS,
            [*values, fact("parameters", ","), fact("images_per_second", ".1f"), fact("seconds", ",.0f")],
            strict=True,
        )
    )


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `compare.html` and `compare.json` into `folder`."""
    provenance = {
        "runs": [
            {"name": run.name, "folder": str(run.folder), "settings": comparison.settings(run), "metrics": run.metrics}
            for run in comparison.runs
        ],
        "seeds": [group._asdict() for group in comparison.seeds],
        "pairings": [
            pair._asdict() | {"result": asdict(pair.result), "verdict": pair.verdict} for pair in comparison.pairings
        ],
        "not_paired": comparison.not_paired,
    }
    write_json(folder / "compare.json", provenance)
    charts = {
        title: chart({run.name: curve(run.epochs, column) for run in comparison.runs})
        for title, column in (
            ("validation accuracy", "val/acc"), ("validation loss", "val/loss"),
            ("training accuracy", "train/acc"), ("training loss", "train/loss"),
        )
    }  # fmt: skip
    write_page(
        folder / "compare.html", "compare.html", comparison=comparison, columns=columns, charts=charts, alpha=ALPHA
    )


def _seed_groups(runs: list[Run]) -> list[SeedGroup]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in run.config.items() if key != "seed"}
        group = groups.setdefault(repr([settings, run.split, run.data]), [])
        if run.config.get("seed") not in [other.config.get("seed") for other in group]:  # a repeated run is no other
            group.append(run)
    found = []
    for members in groups.values():
        if len(members) > 1:
            metrics = {
                f"{split}/{name}": mean_and_error([run.metrics[split][name] for run in members])
                for split in ("val", "test") if split in members[0].metrics
                for name in ("acc", "loss", "f1_macro")
            }  # fmt: skip
            found.append(SeedGroup([run.name for run in members], metrics))
    return found


def _command(folder: Path) -> str:
    hydra_config = OmegaConf.load(folder / ".hydra" / "hydra.yaml")
    return str(OmegaConf.select(hydra_config, "hydra.job.config_name"))


def _read(folder: Path, name: str) -> Run:
    config = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=False)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    provenance = read_provenance(folder)
    settings = {k: v for k, v in flatten(config).items() if not f"{k}.".startswith(_NOT_SETTINGS)}
    correct = [row["prediction"] == row["label"] for row in read_csv(folder / "predictions.csv")]
    table = folder / "metrics.csv"
    run = Run(
        name,
        folder,
        settings,
        metrics,
        provenance,
        read_csv(table) if table.exists() else [],
        provenance["predictions"],
        correct,
    )
    if len(correct) != provenance["data"][run.split]["count"] or run.split not in metrics:
        raise ValueError(f"predictions.csv does not hold the images of {run.split}")
    return run

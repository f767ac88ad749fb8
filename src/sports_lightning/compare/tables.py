"""Shows a comparison: tables in the terminal, `compare.html` and `compare.json`."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sports_lightning.compare.comparison import ALPHA, Comparison, Pairing
from sports_lightning.compare.run_reader import Run
from sports_lightning.evaluate.intervals import format_metric
from sports_lightning.reports.html import chart, write_page
from sports_lightning.runs.layout import curve
from sports_lightning.storage.files import write_json

_PRINTED_SETTINGS = 6  # per run
_PRINTED_PAIRS = 15
_CHARTS = {
    "validation accuracy": "val/acc",
    "validation loss": "val/loss",
    "training accuracy": "train/acc",
    "training loss": "train/loss",
}


def columns(run: Run) -> dict[str, str]:
    """{column: text} of a run's metrics and costs; the text is empty if the run does not have the value."""

    def metric(split: str, name: str) -> str:
        return format_metric(run.metrics.get(split, {}), name, digits=3)

    def cost(name: str, format_spec: str) -> str:
        return format(run.provenance[name], format_spec) if name in run.provenance else ""

    return {
        "val acc": metric("val", "acc"),
        "val loss": metric("val", "loss"),
        "test acc": metric("test", "acc"),
        "test loss": metric("test", "loss"),
        "parameters": cost("parameters", ","),
        "img/s": cost("images_per_second", ".1f"),
        "seconds": cost("seconds", ",.0f"),
    }


def print_comparison(comparison: Comparison) -> None:
    """Print the runs, the means over seeds and the pairings."""
    console = Console()
    console.print(_runs_table(comparison))
    for group in comparison.seeds:
        means = (f"{name} {mean:.4f} ± {error:.4f}" for name, (mean, error) in group.metrics.items())
        console.print(f"{len(group.runs)} seeds, mean ± standard error: {', '.join(means)}", soft_wrap=True)
        console.print(f"  {escape(', '.join(group.runs))}", soft_wrap=True)
    if comparison.pairings:
        console.print(_pairs_table(comparison))
    if len(comparison.pairings) > _PRINTED_PAIRS:
        console.print(f"… and {len(comparison.pairings) - _PRINTED_PAIRS} more pairs in compare.html")
    for line in [*(f"not paired: {line}" for line in comparison.not_paired), *comparison.caveats]:
        console.print(escape(line), soft_wrap=True)


def _runs_table(comparison: Comparison) -> Table:
    table = Table(Column("run, differing settings", overflow="fold"), "val", "test", "parameters", "img/s", "seconds")
    for run in comparison.runs:
        settings = [f"{key}={value}" for key, value in comparison.settings(run).items() if value is not None]
        hidden = len(settings) - _PRINTED_SETTINGS
        lines = [run.name, *settings[:_PRINTED_SETTINGS], *([f"… and {hidden} more"] if hidden > 0 else [])]
        cells = columns(run)
        metrics = (_metrics_cell(cells[f"{split} acc"], cells[f"{split} loss"]) for split in ("val", "test"))
        table.add_row(escape("\n".join(lines)), *metrics, *(cells[name] for name in ("parameters", "img/s", "seconds")))
    return table


def _metrics_cell(accuracy: str, loss: str) -> str:
    """Accuracy, its interval and the loss, below each other."""
    return "\nloss ".join((accuracy.replace(" ", "\n"), loss.split(" ")[0])) if accuracy else ""


def _pairs_table(comparison: Comparison) -> Table:
    table = Table(
        "pair", "accuracy difference", "only one correct", "p", "p (Holm)", Column("in words", overflow="fold"),
        caption="McNemar's exact test on paired images, by groups of near copies where there are any; 95 % intervals",
    )  # fmt: skip
    for pair in comparison.pairings[:_PRINTED_PAIRS]:
        result = pair.result
        table.add_row(
            escape(f"{pair.first}\n{pair.second}"),
            f"{result.difference:+.4f}\n({result.low:+.4f} to {result.high:+.4f}){_folds_cell(pair)}",
            f"{result.only_first} and {result.only_second}\nof {pair.images} {pair.split}",
            f"{result.p_value:.2g}", f"{pair.p_holm:.2g}", escape(pair.verdict),
        )  # fmt: skip
    return table


def _folds_cell(pair: Pairing) -> str:
    """The differences of the folds of two cross-validations, a line each."""
    return "".join(f"\nfold {fold}: {difference:+.4f}" for fold, difference in pair.folds.items())


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `compare.html` and `compare.json` into `folder`."""
    content = {
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
    write_json(folder / "compare.json", content)
    charts = {
        title: chart({run.name: curve(run.epochs, column) for run in comparison.runs})
        for title, column in _CHARTS.items()
    }
    write_page(
        folder / "compare.html", "compare.html", comparison=comparison, columns=columns, charts=charts, alpha=ALPHA
    )

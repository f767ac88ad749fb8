"""The report of an export, and what becomes of files that differ."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.errors import UserError
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.export.files import ExportedFile
from sports_lightning.export.parity import LARGEST_DIFFERENCE, LARGEST_LOSS, OPENVINO_DIFFERENCE, Parity, as_rows
from sports_lightning.inference.export_info import ExportInfo
from sports_lightning.reports.html import render_page, write_page
from sports_lightning.runs.layout import MODEL_CARD
from sports_lightning.runs.provenance import machine
from sports_lightning.runs.run_of_checkpoint import BEST
from sports_lightning.storage.files import checkpoint_file, write_json, write_text


def write_report(
    parities: Sequence[Parity], reference: Evaluation, info: ExportInfo, cfg: DictConfig, folder: Path
) -> None:
    """Write `parity.json`, `parity.html` and `MODEL_CARD.md`."""
    values = {
        "ckpt_path": str(cfg.ckpt_path),
        "split": cfg.split,
        "images": len(reference.split),
        "accuracy": float(reference.is_correct.double().mean()),
        "machine": machine(uses_gpus=False),
        "bounds": {
            "difference": LARGEST_DIFFERENCE,
            "difference_openvino": OPENVINO_DIFFERENCE,
            "loss_of_accuracy": LARGEST_LOSS,
        },
        "version": info.version,
        "files": as_rows(parities),
    }
    write_json(folder / "parity.json", values)
    write_page(folder / "parity.html", "parity.html", **values, classes=reference.classes)
    _write_card(checkpoint_file(cfg.ckpt_path), render_page("exported_files.md", **values), folder)


def _write_card(checkpoint: Path, table: str, folder: Path) -> None:
    """Write the model card of the checkpoint, if it has one, with the table of its exported files."""
    card = checkpoint.with_name(MODEL_CARD)
    has_card = card.is_file() and checkpoint.name == BEST
    text = card.read_text(encoding="utf-8") + "\n" if has_card else "# Exported classifier\n\n"
    write_text(folder / MODEL_CARD, text + table)


def keep_files(files: Sequence[ExportedFile], parities: Sequence[Parity], allow_difference: bool, folder: Path) -> None:
    """Move the files that pass, or all of them, into the run folder; those of an earlier export are replaced."""
    for file, parity in zip(files, parities, strict=True):
        target = folder / file.name
        shutil.rmtree(target, ignore_errors=True)
        for suffix in (".bin", target.suffix):  # the file that is opened last
            target.with_suffix(suffix).unlink(missing_ok=True)
            source = file.path.with_suffix(suffix)
            if source.exists() and (parity.passes or allow_difference):
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target.with_suffix(suffix))


def refuse_differing(parities: Sequence[Parity]) -> None:
    """Raise UserError if there are files whose answers differ."""
    differing = [parity for parity in parities if not parity.passes]
    if differing:
        described = "; ".join(
            f"{parity.file} by up to {parity.difference:.1e}, {parity.top1_changes} top-1 changes, accuracy "
            f"{parity.accuracy_change:+.4f}"
            for parity in differing
        )
        raise UserError(f"not kept, because of other answers: {described} (allow_difference=true keeps the files)")

"""Export a checkpoint to other formats: `python -m sports_lightning.export ckpt_path=RUN format=[onnx,timm]`."""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_export
from sports_lightning.storage.files import checkpoint_file


def export(cfg: DictConfig, folder: Path) -> None:
    """Write a checkpoint in other formats, compare every file with it, and write the report of that.

    Raises:
        UserError: a file that differs from the checkpoint, without `allow_difference`. It is not kept.
    """
    check_export(cfg)
    with quick_imports():
        from sports_lightning.data.source import list_dataset
        from sports_lightning.data.value_range import value_range_for_checkpoint
        from sports_lightning.evaluate.evaluation import evaluate_split
        from sports_lightning.export.files import check_packages, write_files
        from sports_lightning.export.hub import check_push, push_export
        from sports_lightning.export.parity import compare_file, print_parity
        from sports_lightning.export.parity_report import keep_files, refuse_differing, write_report
        from sports_lightning.inference.export_info import ExportInfo
        from sports_lightning.models.classifier import load_classifier
        from sports_lightning.runs.run_of_checkpoint import read_metrics
        from sports_lightning.split.dataset import open_dataset
        from sports_lightning.split.split_file import copy_split_file, data_of_checkpoint

    formats = list(cfg.format)
    if cfg.push:
        check_push(cfg.push)
        formats += [] if "timm" in formats else ["timm"]
    check_packages(formats, cfg.int8)
    classifier = load_classifier(cfg.ckpt_path)
    data = data_of_checkpoint(cfg.data, cfg.ckpt_path, classifier.spec.data_root)
    if cfg.split == "auto":
        cfg.split = "test" if "test" in list_dataset(data).classes else "val"
    splits = list(dict.fromkeys([cfg.split, *(["train"] if cfg.int8 else [])]))
    choose = partial(value_range_for_checkpoint, classifier.preprocessing.value_range)
    index = open_dataset(data, splits, classifier.spec.classes, choose)
    classifier.set_value_range(index.value_range)
    if cfg.inference.accelerator == "auto":
        cfg.inference.accelerator = "cpu"  # where the files run; a GPU would round convolutions to TF32
    reference = evaluate_split(classifier, index, cfg.split, cfg.inference)
    info = ExportInfo.of(classifier, read_metrics(cfg.ckpt_path))
    with TemporaryDirectory(dir=folder, prefix=".unchecked-") as unchecked:
        files = write_files(classifier, info, formats, cfg.int8, index, Path(unchecked))
        parities = [compare_file(file, reference, classifier, cfg.inference) for file in files]
        keep_files(files, parities, cfg.allow_difference, folder)
    copy_split_file(checkpoint_file(cfg.ckpt_path), folder)
    write_report(parities, reference, info, cfg, folder)
    print_parity(parities)
    if not cfg.allow_difference:
        refuse_differing(parities)
    if cfg.push:
        push_export(cfg.push, checkpoint_file(cfg.ckpt_path), [file.name for file in files], folder)


COMMAND = Command("export", export)

if __name__ == "__main__":
    sys.exit(main(COMMAND))

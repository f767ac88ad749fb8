"""Every export format of several architectures, compared with the checkpoint on a split and on images of odd sizes.

    python benchmarks/export_parity.py ROOT [--weights LITE0] [--models resnet50 …] [--formats onnx torch openvino timm]
        [--images 500] [--odd 200] [--int8]

ROOT is a dataset with train/ and test/. The weights are random, except for EfficientNet-Lite0's backbone with
`--weights`. Logits of a random head are nearly equal, so that a difference would not show in their probabilities: the
temperature is set so that they spread like those of a trained network. The odd images are of random sizes from 1 to
1,500 pixels, gray and transparent ones among them, rotated by their EXIF data, and 20 × 3000 pixels. Prints a row per
file with the largest difference of a probability and the images whose most probable class changes, on both sets. Speed
is measured in the same run; take it on an idle machine.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from PIL import ExifTags, Image

from sports_lightning import CONF_DIR
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.image_folder import list_images
from sports_lightning.evaluate.decisions import calibrate_decisions
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.export.files import write_files
from sports_lightning.export.parity import compare_file
from sports_lightning.inference.export_info import ExportInfo
from sports_lightning.inference.predictor import compute_logits
from sports_lightning.models.classifier import Classifier, build_classifier

SPREAD = 4.0  # standard deviation of the logits of an image: that of the trained head on EfficientNet-Lite0

MODELS = {
    "scratch_cnn": ["model=scratch_cnn"],
    "efficientnet_lite0": ["model=efficientnet_lite0"],
    "resnet50": ["model=resnet50"],
    "vit_small": ["model=timm", "model.name=vit_small_patch16_224"],
    "convnext_tiny": ["model=timm", "model.name=convnext_tiny"],
}


def draw_odd_images(source: list[Path], count: int, folder: Path) -> None:
    """Write variants of images with odd sizes, modes and orientations."""
    draws = np.random.default_rng(0)
    for i in range(count):
        image = Image.open(source[i % len(source)]).convert("RGB")
        size = [(20, 3000), (3000, 20)][i % 2] if i % 10 == 0 else tuple(draws.integers(1, 1500, 2).tolist())
        image = image.resize(size)
        exif = Image.Exif()
        if i % 4 == 1:
            exif[ExifTags.Base.Orientation] = int(draws.integers(2, 9))
        mode = ["RGB", "L", "RGBA", "P"][i % 4]
        suffix = "jpg" if mode in ("RGB", "L") else "png"
        image.convert(mode).save(folder / f"{i:03d}.{suffix}", exif=exif)


def evaluate(classifier: Classifier, root: Path, split: Split, inference: object) -> Evaluation:
    return Evaluation(root, split, classifier.spec.classes, compute_logits(classifier, root, split, inference))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--formats", nargs="+", default=["onnx", "torch", "openvino", "timm"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--odd", type=int, default=200)
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    classes = sorted(path.name for path in (options.root / "train").iterdir())
    paths = {split: list_images(options.root / split) for split in ("train", "test")}
    splits = {
        split: Split([f"{split}/{name}" for name in names], [classes.index(name.split("/")[0]) for name in names])
        for split, names in paths.items()
    }
    index = DatasetIndex(options.root, classes, splits)
    print(
        "model, file: max |Δp| and top-1 changes on the split; on odd images; MB, ms, images/s, × PyTorch", flush=True
    )
    for name in options.models:
        weights = [f"model.weights={options.weights}"] if name == "efficientnet_lite0" and options.weights else []
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose("train", [*MODELS[name], *(weights or ["model.pretrained=false"])])
        torch.manual_seed(0)
        classifier = build_classifier(cfg.model, classes, options.root).eval()
        with tempfile.TemporaryDirectory() as folder:
            odd = Path(folder, "odd")
            odd.mkdir()
            draw_odd_images([options.root / path for path in splits["test"].paths], options.odd, odd)
            names = list_images(odd)
            sets = [(options.root, splits["test"].spread(options.images)), (odd, Split(names, [0] * len(names)))]
            references = [evaluate(classifier, root, split, cfg.inference) for root, split in sets]
            spread = float(references[0].logits.std(dim=1).mean())
            classifier.spec = replace(classifier.spec, temperature=spread / SPREAD)
            references = [evaluate(classifier, root, split, cfg.inference) for root, split in sets]
            calibrate_decisions(classifier, references[0])
            info = ExportInfo.of(classifier, {})
            for file in write_files(classifier, info, options.formats, options.int8, index, Path(folder)):
                found = [compare_file(file, reference, classifier, cfg.inference) for reference in references]
                cells = [f"{parity.difference:.1e} {parity.top1_changes}" for parity in found]
                first = found[0]
                speed = f"{first.megabytes:.1f} {first.latency_ms:.1f} {first.images_per_second:.1f} {first.speed:.2f}"
                print(f"{name:20} {file.name:20} {cells[0]:>14} {cells[1]:>14}  {speed}", flush=True)


if __name__ == "__main__":
    main()

"""One epoch at the package's defaults, compared with timm's own train script at its fastest flags, in turn.

    python benchmarks/against_timm.py ROOT TIMM [--model resnet50] [--bfloat16] [--compile]

ROOT is a dataset with train/ and valid/, of which the first images are used. TIMM is a checkout of timm's repository
(pytorch-image-models), whose train.py is in no package. The time includes start-up, validation and checkpoints, and
on our side the metrics and the report. Weights are random and the batch size is 32. Run it on an otherwise idle
machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from against_plain_loop import NAMES


def seconds(cwd: str, *arguments: str, path: Path | None = None) -> float:
    """Wall time of a python process in seconds; it imports from the folder `path` first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(path or ""), *sys.path[1:]]))}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def take(root: Path, target: Path, split: str, count: int) -> None:
    """Link the first `count` images of a split, taking one of each class in turn."""
    by_class = [sorted(folder.iterdir()) for folder in sorted((root / split).iterdir())]
    in_turn = [files[i] for i in range(max(map(len, by_class))) for files in by_class if i < len(files)]
    for file in in_turn[:count]:
        link = target / split / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.absolute())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("timm", type=Path)
    parser.add_argument("--model", default="resnet50", choices=["resnet50", "efficientnet_lite0"])
    parser.add_argument("--images", type=int, default=320, help="images per epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bfloat16", action="store_true", help="timm's --amp --amp-dtype bfloat16")
    parser.add_argument("--compile", action="store_true", help="timm's --torchcompile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        take(options.root, data, "train", options.images)
        take(options.root, data, "valid", max(32, len(list((data / "train").iterdir()))))
        classes = len(list((data / "train").iterdir()))
        ours = [
            "-m", "sports_lightning.train", "data=folder", f"data.root={data}", f"model={options.model}",
            "model.pretrained=false", "model.image_size=224", "data.batch_size=32", "trainer.max_epochs=1",
            "scheduler.warmup_epochs=0", "test=false", "trainer.devices=1",
        ]  # fmt: skip
        theirs = [
            str(options.timm.absolute() / "train.py"), "--data-dir", str(data), "--val-split", "valid", "--model",
            NAMES[options.model], "--num-classes", str(classes), "--input-size", "3", "224", "224", "--batch-size",
            "32", "--epochs", "1", "--warmup-epochs", "0", "--channels-last", "--workers", "2", "--device", "cpu",
            "--output", f"{folder}/timm",
        ]  # fmt: skip
        if options.bfloat16:
            theirs += ["--amp", "--amp-dtype", "bfloat16"]
        if options.compile:
            theirs.append("--torchcompile")
        ratios = []
        for _ in range(options.rounds):
            a, b = seconds(folder, *ours), seconds(folder, *theirs, path=options.timm.absolute())
            ratios.append(b / a)
            print(f"{options.model}: ours {a:.0f} s, timm {b:.0f} s, ratio {b / a:.2f}", flush=True)
        print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()

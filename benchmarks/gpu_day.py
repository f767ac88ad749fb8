"""Everything that is to be known about one GPU, in one command of at most nine minutes, without network.

    python benchmarks/gpu_day.py pack SPORTS100 LITE0.safetensors PACK [--timm TIMM]
    python PACK/gpu_day.py run PACK OUT [--minutes 9] [--rehearse]

`pack` needs a network. It writes wheels of this package and of what it needs beyond torch, torchvision, timm, Lightning
and torchmetrics, and the dataset as small JPEG files. TIMM is a checkout of timm's repository, whose train.py is in no
package. `run` needs only those five packages. Each finished measurement is in OUT/results.json before the next one
starts, and a step for which no time is left is listed as failed. `--rehearse` makes every step short, on a CPU.
"""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

# Beyond the five packages. Without wandb, runs need logger=csv.
PACKAGES = ["hydra-core", "omegaconf", "antlr4-python3-runtime==4.9.3", "pillow-heif", "simplejpeg", "scipy"]
PACKAGES += ["matplotlib", "contourpy", "cycler", "fonttools", "kiwisolver", "pyparsing", "python-dateutil", "six"]
PACKAGES += ["captum", "opencv-python-headless", "rich", "markdown-it-py", "mdurl", "pygments", "psutil"]
FILES = ["gpu_day.py", "plain_loop.py"]
NAMES = {"resnet50": "resnet50", "efficientnet_lite0": "tf_efficientnet_lite0"}  # timm's names
COMMON = ["logger=csv", "data.audit=false", "trainer.enable_progress_bar=false", "inference.num_workers=0"]
Result = dict[str, Any]


def pack(root: Path, weights: Path, target: Path, timm: Path | None, side: int, quality: int) -> None:
    """Write everything that `run` needs into `target`."""
    from PIL import Image

    here = Path(__file__).parent
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copy(here / name, target)
    shutil.copy(weights, target / "lite0.safetensors")
    if timm:
        shutil.copytree(
            timm, target / "timm_checkout", ignore=shutil.ignore_patterns(".git", "results", "*.md", "hfdocs")
        )
    wheels = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(target / "wheels")]
    subprocess.run([*wheels, *PACKAGES, str(here.parent)], check=True)
    folder = target / "images"
    for file in sorted(root.rglob("*.jpg")):
        name = folder / file.relative_to(root).with_suffix(".jpg")
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(name, quality=quality)
    shutil.make_archive(str(folder), "zip", target, "images")
    shutil.rmtree(folder)
    for file in sorted(target.iterdir()):
        size = sum(each.stat().st_size for each in file.rglob("*")) if file.is_dir() else file.stat().st_size
        print(f"{size / 1e6:8.1f} MB  {file.name}")


class Machine:
    """The machine that is measured: how commands are run on it, and how long they may take.

    Args:
        folder: the unpacked PACK.
        out: where logs and run folders are written.
        deadline: by `time.monotonic()`.
        rehearses: whether steps are as short as possible, on a CPU.
    """

    def __init__(self, folder: Path, out: Path, deadline: float, rehearses: bool) -> None:
        self.folder, self.out, self.deadline, self.rehearses = folder, out, deadline, rehearses
        self.images = folder / "images"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder / "site"),
            "SPORTS_LIGHTNING_CACHE": str(out / "cache"),
        }
        self.accelerator = "cpu" if rehearses else "gpu"
        self.precision = "32-true" if rehearses else "bf16-mixed"
        self.batch_size, self.steps, self.workers = (8, 2, 0) if rehearses else (256, 20, 16)

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start python with these arguments; its output goes to OUT/NAME.log."""
        log = (self.out / f"{name}.log").open("wb")
        command = [sys.executable, *arguments]
        output = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **output)

    def wait(self, process: subprocess.Popen[bytes], seconds: float) -> int:
        """Wait for a process, and kill it with all that it has started when the time is over."""
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise TimeoutError("not finished when the time was over") from error

    def python(self, name: str, *arguments: str) -> str:
        """Run python with these arguments and return its output.

        Raises:
            RuntimeError: it failed.
            TimeoutError: the time is over.
        """
        status = self.wait(self.start(name, *arguments), max(1.0, self.deadline - time.monotonic()))
        output = (self.out / f"{name}.log").read_text(errors="replace")
        if status:
            raise RuntimeError(f"{name} exits with {status}: {output.strip().splitlines()[-1:]}")
        return output

    def command(self, command: str, name: str, *overrides: str) -> Path:
        """Run a command of the package and return its run folder, OUT/NAME."""
        run = self.out / name
        self.python(name, "-m", f"sports_lightning.{command}", *overrides, f"hydra.run.dir={run}")
        return run

    def limits(self, epochs: int) -> list[str]:
        """The overrides of a few steps per epoch."""
        batches = ["trainer.limit_val_batches=1", f"trainer.limit_train_batches={self.steps}"]
        return [*batches, f"trainer.max_epochs={epochs}"]

    def training(self, model: str, *more: str) -> list[str]:
        """The overrides of a training on the packed images."""
        return [
            "data=folder", f"data.root={self.images}", f"model={model}", "model.pretrained=false", "test=false",
            "model.image_size=224", f"data.batch_size={self.batch_size}", f"trainer.accelerator={self.accelerator}",
            f"data.num_workers={self.workers}", "trainer.devices=1", "scheduler.warmup_epochs=0", *COMMON, *more,
        ]  # fmt: skip


def numerics(machine: Machine) -> Result:
    """What torch sees, and what a run chooses with everything at its default."""
    code = (
        "import torch, json; g = torch.cuda.is_available(); "
        "print(json.dumps({'torch': torch.__version__, 'gpu': g and torch.cuda.get_device_name(), "
        "'tf32': torch.backends.cuda.matmul.allow_tf32, 'nccl': torch.distributed.is_nccl_available()}))"
    )
    found: Result = json.loads(machine.python("torch", "-c", code).splitlines()[-1])
    limits = machine.limits(1)
    run = machine.command("train", "numerics", *machine.training("efficientnet_lite0", *limits))
    record = json.loads((run / "run.json").read_text())
    return found | {"precision": record["precision"], "seconds": record["seconds"]}


def step_rates(machine: Machine, model: str, compiled: bool, *more: str) -> Result:
    """The step alone, the loader alone and both together, by `benchmark`."""
    name = "-".join(["benchmark", model, *(["compiled"] if compiled else []), *("ram" for _ in more)])
    settings = [f"model.compile={compiled}", f"steps={machine.steps}", f"trainer.precision={machine.precision}"]
    run = machine.command("benchmark", name, *machine.training(model, "augment=standard", *settings, *more))
    with (run / "benchmark.csv").open(newline="") as file:
        return dict(next(csv.DictReader(file)))


def against_plain(machine: Machine, model: str) -> Result:
    """The second of two epochs of a few steps: here, and of a plain Lightning loop in the same precision."""
    limits = machine.limits(2)
    settings = ["augment=standard", f"trainer.precision={machine.precision}"]
    run = machine.command("train", f"train-{model}", *machine.training(model, *limits, *settings))
    with (run / "timings.csv").open(newline="") as file:
        ours = float(list(csv.DictReader(file))[-1]["images_per_second"])
    arguments = [f"{machine.images}/train", NAMES[model], str(machine.batch_size), str(machine.steps)]
    arguments += [machine.precision, str(machine.workers)]
    plain = float(machine.python(f"plain-{model}", "plain_loop.py", *arguments).split()[-1])
    return {"ours": ours, "plain": plain, "ratio": ours / plain}


def against_timm(machine: Machine, model: str) -> Result:
    """Images per second that timm's train script reports, at its fastest flags."""
    script = machine.folder / "timm_checkout" / "train.py"
    if not script.exists():
        return {"skipped": "pack was given no --timm"}
    arguments = [
        str(script), "--data-dir", str(machine.images), "--val-split", "valid", "--model", NAMES[model],
        "--num-classes", "100", "--input-size", "3", "224", "224", "--batch-size", str(machine.batch_size), "--epochs",
        "1", "--warmup-epochs", "0", "--channels-last", "--workers", str(machine.workers), "--log-interval", "5",
        "--output", str(machine.out / "timm"), "--device", "cpu" if machine.rehearses else "cuda",
    ]  # fmt: skip
    if not machine.rehearses:
        arguments += ["--amp", "--amp-dtype", "bfloat16", "--torchcompile"]
    process = machine.start(f"timm-{model}", *arguments)
    log = machine.out / f"timm-{model}.log"
    enough = 3 if machine.rehearses else 8  # lines of the log; the script has no limit of its own
    rates: list[float] = []
    while process.poll() is None and len(rates) < enough and time.monotonic() < machine.deadline:
        time.sleep(0.5)
        rates = [float(rate) for rate in re.findall(r"([\d.]+)/s\)", log.read_text(errors="replace"))]
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not rates:
        raise RuntimeError(f"timm's script reported no rate: {log.read_text(errors='replace').strip()[-300:]}")
    return {"timm": max(rates)}


def resumes(machine: Machine) -> Result:
    """Whether a run that was interrupted and resumed ends with the weights of an uninterrupted one."""
    limits = machine.limits(3)
    settings = machine.training(
        "efficientnet_lite0", "augment=standard", *limits, f"trainer.precision={machine.precision}"
    )
    whole = machine.command("train", "uninterrupted", *settings)
    torn = machine.out / "interrupted"
    process = machine.start("interrupted", "-m", "sports_lightning.train", *settings, f"hydra.run.dir={torn}")
    while process.poll() is None and not (torn / "metrics.csv").exists() and time.monotonic() < machine.deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    machine.wait(process, 60)
    was_interrupted = not (torn / "metrics.json").exists()
    machine.python("resumed", "-m", "sports_lightning.train", f"resume={torn}")
    code = (
        "import sys, torch\n"
        "a, b = (torch.load(p, weights_only=True, map_location='cpu')['state_dict'] for p in sys.argv[1:])\n"
        "print(max(float((a[n].double() - b[n].double()).abs().max()) for n in a))"
    )
    paths = [str(run / "checkpoints/last.ckpt") for run in (whole, torn)]
    difference = float(machine.python("weights", "-c", code, *paths).split()[-1])
    return {"was_interrupted": was_interrupted, "largest_difference": difference, "identical": difference == 0}


def two_processes(machine: Machine) -> Result:
    """Two processes: on one GPU, NCCL refuses that, and the line says so."""
    limits = machine.limits(1)
    settings = [each for each in machine.training("efficientnet_lite0", *limits) if each != "trainer.devices=1"]
    run = machine.command("train", "two", *settings, "trainer.devices=2")
    return {"images_per_second": json.loads((run / "run.json").read_text())["images_per_second"]}


def seconds_to_95(machine: Machine) -> Result:
    """`experiment=head`, whole process, then with cached features. The packed images are smaller than the dataset's."""
    found: Result = {}
    weights = f"model.weights={machine.folder / 'lite0.safetensors'}"
    settings = ["experiment=head", "data=folder", f"data.root={machine.images}", weights, *COMMON]
    settings += [f"trainer.accelerator={machine.accelerator}", f"data.num_workers={machine.workers}"]
    if machine.rehearses:
        settings += [
            "trainer.limit_train_batches=2",
            "trainer.max_epochs=1",
            "trainer.limit_val_batches=1",
            "test=false",
        ]
    for name in ("head", "head-cached"):
        started = time.monotonic()
        run = machine.command("train", name, *settings)
        metrics = json.loads((run / "metrics.json").read_text())
        found[name] = {"seconds": time.monotonic() - started} | {
            split: metrics[split]["acc"] for split in ("val", "test") if split in metrics
        }
    return found


STEPS: dict[str, Callable[[Machine], Result]] = {
    "numerics": numerics,
    "head": seconds_to_95,
    **{f"benchmark {model}": partial(step_rates, model=model, compiled=False) for model in NAMES},
    **{f"plain loop {model}": partial(against_plain, model=model) for model in NAMES},
    "resume": resumes,
    **{f"benchmark {model} compiled": partial(step_rates, model=model, compiled=True) for model in NAMES},
    **{f"timm {model}": partial(against_timm, model=model) for model in NAMES},
    "input from memory": lambda machine: step_rates(machine, "efficientnet_lite0", False, "data.cache=ram"),
    "two processes": two_processes,
}


def run(folder: Path, out: Path, minutes: float, rehearses: bool) -> None:
    """Run every step that the time allows."""
    deadline = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    if not (folder / "site").exists():
        wheels = map(str, (folder / "wheels").glob("*.whl"))
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
        subprocess.run([*install, "--target", str(folder / "site.partial"), *wheels], check=True)
        (folder / "site.partial").rename(folder / "site")
    if not (folder / "images").exists():
        shutil.unpack_archive(folder / "images.zip", folder / "partial")
        (folder / "partial" / "images").rename(folder / "images")
    machine = Machine(folder.absolute(), out.absolute(), deadline, rehearses)
    results: Result = {}
    for name, step in STEPS.items():
        started = time.monotonic()
        try:
            if started > deadline - 10:
                raise TimeoutError("no time was left")
            results[name] = step(machine)
        except Exception as error:  # whatever a step finds must not cost the others
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
        results[name]["step_seconds"] = round(time.monotonic() - started, 1)
        (out / "results.json").write_text(json.dumps(results, indent=2))
        print(f"{name}: {json.dumps(results[name])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    for name in ("root", "weights", "target"):
        packing.add_argument(name, type=Path)
    packing.add_argument("--timm", type=Path, help="a checkout of timm's repository")
    packing.add_argument("--side", type=int, default=144, help="of the images, in pixels")
    packing.add_argument("--quality", type=int, default=40, help="of JPEG")
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--minutes", type=float, default=9)
    running.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    if options.command == "pack":
        pack(options.root, options.weights, options.target, options.timm, options.side, options.quality)
    else:
        run(options.folder, options.out, options.minutes, options.rehearse)


if __name__ == "__main__":
    main()

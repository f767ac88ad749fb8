"""Kill applications and undos of `organize` at random moments, and fill the disk: is everything as before afterwards?

    python benchmarks/organize_kills.py 200                     # SIGKILLs, 500 files, every mode in turn
    python benchmarks/organize_kills.py 200 --disk SMALL_DRIVE  # too small: mount -t tmpfs -o size=4m none SMALL_DRIVE

Each round applies a plan to a library with sidecars, and is killed at a random moment; then the undo is killed at a
random moment, too; then the undo is run to its end. The library has to be byte-identical, with its modification times,
and the new folder must be gone. With `--disk`, the folder that is sorted into is on that drive, so that it fills up.
Exits with 1 if a round differs. No torch is imported.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from sports_lightning.organize.file_operations import MODES, digest_of
from sports_lightning.organize.plan import Plan, PlannedImage, place
from sports_lightning.organize.sidecars import find_companions
from sports_lightning.organize.targets import FreeNames, Pattern

SIDECAR = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>"""
APPLY = """
import sys
from pathlib import Path
from sports_lightning.organize import application
from sports_lightning.organize.journal import Journal
from sports_lightning.organize.operations import plan_operations
from sports_lightning.organize.plan import Plan
run = Path(sys.argv[1])
plan = Plan.read(run)
application._free_bytes = lambda _: 2**60
operations = plan_operations(plan)
print(flush=True)
application.apply(Journal.of(Path(plan.to), operations), run)
"""
UNDO = """
import sys
from pathlib import Path
from sports_lightning.organize import application
print(flush=True)
kept = application.undo(Path(sys.argv[1]))
assert not kept, kept
"""


def draw_library(folder: Path, files: int) -> None:
    """Images with sidecars, `files` in all, with modification times of their own."""
    draws = random.Random(0)
    for i in range(files // 2):
        path = folder / f"trip {i % 7}" / f"IMG_{i:04d}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff" + draws.randbytes(draws.randrange(1000, 40000)))
        path.with_suffix([".xmp", ".AAE", ".mov"][i % 3]).write_bytes(SIDECAR if i % 3 == 0 else draws.randbytes(500))
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, ns=(time := 1_500_000_000_000_000_000 + draws.randrange(10**15), time))


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """The content and modification time of every entry."""
    return {
        str(path.relative_to(folder)): (digest_of(str(path)) if path.is_file() else "", path.lstat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
    }


def make_plan(library: Path, to: Path, mode: str) -> Plan:
    """A plan without a network: labels by number, keywords in sidecars."""
    names = sorted(str(path.relative_to(library)) for path in library.rglob("*.JPG"))
    companions = find_companions([str(library / name) for name in names]).of_image
    free, images, states = FreeNames(to), [], {}
    for i, name in enumerate(names):
        label = f"class {i % 9}"
        own = dict.fromkeys(companions.get(str(library / name), []), "")
        image = PlannedImage(name, label, label, 0.9, 0.5, "sure", companions=own)
        images.append(place(image, free, Pattern("{label}/{name}").target(label, name, None)))
        for path in (name, *(f"{os.path.dirname(name)}/{each}" for each in own)):
            status = (library / path).stat()
            states[path] = [status.st_size, status.st_mtime_ns, digest_of(str(library / path))]
    return Plan(str(library), str(to), mode, "{label}/{name}", ["xmp"], states, images)


def run_killed(program: str, run: Path, seconds: float) -> tuple[int, float]:
    """Run a program, and kill it so many seconds after its work has begun. Return its exit status and its seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    started = time.monotonic()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode, time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--disk", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draws = random.Random(options.seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        library = Path(temporary, "library")
        draw_library(library, options.files)
        before = snapshot(library)
        longest: dict[str, float] = {}
        for number in range(options.rounds):
            mode = MODES[number % len(MODES)] if options.disk is None else ("copy", "move")[number % 2]
            run, to = Path(temporary, f"run{number}"), Path(options.disk or temporary, "sorted")
            run.mkdir()
            make_plan(library, to, mode).write(run)
            # The first round of each mode is not killed, and tells how long it takes.
            status, seconds = run_killed(APPLY, run, draws.uniform(0, longest[mode]) if mode in longest else 600)
            longest.setdefault(mode, seconds)
            outcomes[f"{mode}: {'killed' if status == -9 else 'failed' if status else 'applied'}"] += 1
            if (run / "journal.jsonl").exists():
                status, _ = run_killed(UNDO, run, draws.uniform(0, longest[mode]))
                outcomes[f"{mode}: undo {'killed' if status == -9 else 'failed' if status else 'ended'}"] += 1
                if not (run / "undone").exists():
                    subprocess.run([sys.executable, "-c", UNDO, str(run)], check=True, capture_output=True)
            if snapshot(library) != before or to.exists():
                print(f"round {number} ({mode}) differs: {run}", file=sys.stderr)
                return 1
            shutil.rmtree(run)
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome}: {count}")
    print(f"{options.rounds} rounds over {len(before)} entries: all as before")
    return 0


if __name__ == "__main__":
    sys.exit(main())

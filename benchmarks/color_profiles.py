"""Decoding before and after a change of the code, and what ICC profiles cost.

    python benchmarks/color_profiles.py FOLDER_OF_JPEGS [--before COMMIT] [--images 300] [--rounds 15]

Two processes decode the same images in turn, one with the package of COMMIT (HEAD by default), the other with that of
this checkout, in CPU milliseconds per image; their pixels are compared. The images are decoded as they are, with the
profile of sRGB, which changes no color, and with that of Display P3. The last lines say how many images of the folder
have a profile, and by how much the colors of a Display P3 photo change if its profile is ignored.
"""

import argparse
import hashlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from icc_profiles import DISPLAY_P3, rgb_profile

KINDS = ("as they are", "sRGB profile", "Display P3 profile")
LEAST = 448  # as for an input of 224 by 224 pixels


def read(root: Path, count: int) -> list[bytes]:
    """The content of up to `count` JPEGs below `root`, always the same."""
    paths = sorted(root.rglob("*.jpg"))
    return [path.read_bytes() for path in random.Random(0).sample(paths, min(count, len(paths)))]


def with_profile(content: bytes, profile: bytes) -> bytes:
    """The JPEG with one segment more."""
    segment = b"ICC_PROFILE\0\1\1" + profile
    return content[:2] + b"\xff\xe2" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:]


def profiles() -> dict[str, bytes]:
    """A profile of each kind."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return dict(zip(KINDS[1:], (srgb, rgb_profile(DISPLAY_P3)), strict=True))


def decode_when_asked(root: Path, count: int) -> None:
    """The process of one side: for each kind on stdin, CPU milliseconds per image and a digest of the pixels."""
    from sports_lightning.data.decode import decode

    plain = read(root, count)
    images = {KINDS[0]: plain}
    images |= {kind: [with_profile(content, profile) for content in plain] for kind, profile in profiles().items()}
    for line in sys.stdin:
        kind = line.strip()
        started = time.process_time()
        pixels = [decode(content, LEAST) for content in images[kind]]
        ms = (time.process_time() - started) / len(pixels) * 1e3
        digest = hashlib.blake2b(digest_size=8)
        for image in pixels:
            digest.update(image.numpy().tobytes())
        print(json.dumps([ms, digest.hexdigest()]), flush=True)


def start(source: Path, arguments: list[str]) -> "subprocess.Popen[str]":
    """A process that decodes with the package below `source`."""
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *arguments, "--side"]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(side: "subprocess.Popen[str]", kind: str) -> tuple[float, str]:
    """Milliseconds per image, and the digest of all pixels."""
    assert side.stdin
    assert side.stdout
    print(kind, file=side.stdin, flush=True)
    ms, digest = json.loads(side.stdout.readline())
    return ms, digest


def compare(before: Path, after: Path, arguments: list[str], rounds: int) -> Iterator[str]:
    """A line for each kind of images."""
    sides = [start(source, arguments) for source in (before, after)]
    for kind in KINDS:
        found = [[ask(side, kind) for side in sides] for _ in range(rounds + 1)][1:]  # the first round warms up
        medians = [statistics.median(pair[i][0] for pair in found) for i in (0, 1)]
        ratios = sorted(after[0] / before[0] for before, after in found)
        middle = ratios[len(ratios) // 4 : -(len(ratios) // 4) or None]
        same = "the same pixels" if found[0][0][1] == found[0][1][1] else "other pixels"
        yield (
            f"{kind}: {medians[0]:.3f} ms before, {medians[1]:.3f} after; ratio {statistics.median(ratios):.3f}, "
            f"in half of the rounds {middle[0]:.3f} to {middle[-1]:.3f}; {same}"
        )
    for side in sides:
        side.communicate("")


def describe_profiles(root: Path) -> str:
    """How many files have a profile."""
    files = sorted(root.rglob("*.jpg"))
    found = 0
    for file in files:
        with Image.open(file) as image:
            found += "icc_profile" in image.info
    return f"{found} of {len(files):,} files have a profile"


def describe_change(images: list[bytes]) -> str:
    """The change by which a Display P3 photo of the same scenes is misread: (P3 encoding of the colors) − (sRGB)."""
    srgb = ImageCms.createProfile("sRGB")
    display_p3 = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile(DISPLAY_P3)))
    changes = []
    for content in images:
        with Image.open(io.BytesIO(content)) as image:
            colors = image.convert("RGB")
        misread = ImageCms.profileToProfile(colors, srgb, display_p3)
        changes.append(np.abs(np.asarray(misread, np.int16) - np.asarray(colors, np.int16)).reshape(-1, 3).max(axis=1))
    change = np.concatenate(changes)
    shares = ", ".join(f"{np.quantile(change, q):.0f} at the {q:.0%} quantile" for q in (0.5, 0.95, 0.99))
    return f"the largest of a pixel's three channels changes by {change.mean():.1f} of 255 on average, {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--before", default="HEAD")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return decode_when_asked(arguments.root, arguments.images)
    checkout = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", arguments.before, "src", "conf"], cwd=checkout, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        passed_on = [str(arguments.root), "--images", str(arguments.images)]
        for line in compare(Path(folder) / "src", checkout / "src", passed_on, arguments.rounds):
            print(line)
    print(describe_profiles(arguments.root))
    print(describe_change(read(arguments.root, arguments.images)))
    return None


if __name__ == "__main__":
    main()

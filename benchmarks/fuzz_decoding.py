"""Decode mutated image files: do they cause a crash, a hang, growing memory, or an unexpected error?

    python benchmarks/fuzz_decoding.py ROOT [--inputs 20000] [--seed 0]

Each input is a real image below ROOT, saved in one of thirteen formats and then mutated: bytes are flipped, removed,
repeated or copied from another file, or numbers in the header are made large. Exits with 1 if an input takes a second
or more, or raises anything except UnreadableImage. Memory is the process's resident size, after a tenth of the inputs
and at the end.
"""

import argparse
import io
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from pillow_heif import register_heif_opener

from sports_lightning.data.decode import decode
from sports_lightning.data.file_hashes import check_files
from sports_lightning.data.image_folder import list_images
from sports_lightning.errors import UnreadableImage

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from icc_profiles import DISPLAY_P3, rgb_profile

register_heif_opener()  # also writes
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "progressive JPEG", "CMYK JPEG"),
    *("JPEG with profile", "PNG with profile"),
)
PROFILE = rgb_profile(DISPLAY_P3)

READERS: dict[str, Callable[[Path], object]] = {
    "checked": lambda file: check_files(file.parent, [file.name]),
    "decoded": lambda file: decode(file, 224),
    "decoded at full size": decode,
}
NUMBERS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\0\0")


def encode(image: Image.Image, kind: str) -> bytes:
    """Encode the image in one of FORMATS."""
    content = io.BytesIO()
    if kind == "CMYK JPEG":
        image.convert("CMYK").save(content, "JPEG")
    elif kind == "progressive JPEG":
        image.save(content, "JPEG", progressive=True)
    elif kind.endswith("with profile"):
        image.save(content, kind.partition(" ")[0], icc_profile=PROFILE)
    else:
        image.save(content, kind)
    return content.getvalue()


def mutate(content: bytes, other: bytes, draws: random.Random) -> bytes:
    """Apply one to eight mutations, most of them near the beginning, where the headers are."""
    data = bytearray(content)
    for _ in range(draws.randint(1, 8)):
        if not data:
            break
        near = min(int(draws.paretovariate(0.3)) - 1, len(data) - 1)
        at = near if draws.random() < 0.7 else draws.randrange(len(data))
        match draws.randrange(6):
            case 0:
                data[at] ^= 1 << draws.randrange(8)
            case 1:
                data[at : at + 4] = draws.choice(NUMBERS)
            case 2:
                del data[at : at + draws.randint(1, 64)]
            case 3:
                data[at:at] = data[at : at + draws.randint(1, 64)]
            case 4:
                begin = draws.randrange(len(other))
                data[at:at] = other[begin : begin + draws.randint(1, 256)]
            case 5:
                del data[draws.randrange(len(data)) :]
    return bytes(data)


def resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> int:
    """Run the experiment and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draws = random.Random(arguments.seed)
    sources = draws.sample(list_images(arguments.root), 20)
    images = [Image.open(arguments.root / source).convert("RGB") for source in sources]
    files = [(kind, encode(image, kind)) for image in images for kind in FORMATS]
    outcomes: Counter[str] = Counter()
    slowest, before, bad = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        file = Path(folder, "input.jpg")
        for i in range(arguments.inputs):
            kind, content = draws.choice(files)
            file.write_bytes(mutate(content, draws.choice(files)[1], draws))
            for name, read in READERS.items():
                started = time.perf_counter()
                try:
                    read(file)
                    outcomes[name] += 1
                except UnreadableImage:
                    outcomes[f"{name}: refused"] += 1
                except Exception as error:
                    bad += 1
                    print(f"input {i} ({kind}): {name}: {type(error).__name__}: {error}")
                seconds = time.perf_counter() - started
                slowest = max(slowest, seconds)
                if seconds >= 1:
                    bad += 1
                    print(f"input {i} ({kind}): {name} in {seconds:.2f} s")
            if i == arguments.inputs // 10:
                before = resident()
    memory = f"memory {before:.0f} → {resident():.0f} MB"
    print(f"{arguments.inputs} inputs: {dict(outcomes)}; slowest {slowest:.2f} s; {memory}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

"""The images of a split as uint8 tensors, decoded on access or cached on disk or in shared memory."""

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decode import decode
from sports_lightning.data.formats import pixel_limit
from sports_lightning.errors import UserError
from sports_lightning.runs.process import TORCHRUN, is_externally_launched, local_rank
from sports_lightning.storage.disk_cache import cache_key, cached_folder, fingerprint
from sports_lightning.storage.locks import FileLock
from sports_lightning.storage.parallel import map_ahead, usable_cores

_SHARED_MEMORY = Path("/dev/shm")
_RUNS = "sports_lightning-"  # prefix of the runs' folders in shared memory
_RAM = "SPORTS_LIGHTNING_RAM"
_ALIVE = ".lock"  # held until the run ends
_locks: list[FileLock] = []  # keeps them open


class ImageFiles:
    """Decodes images on access.

    Args:
        root: the folder that the split's paths are relative to.
        split: the images.
        least: number of pixels that the shorter side must keep (see `decode`).
        value_range: the values of 16- and 32-bit pixels that become black and white (see `decode`).
    """

    def __init__(self, root: Path, split: Split, least: int | None, value_range: Sequence[float] | None = None) -> None:
        self.root, self.split, self.least, self.value_range = root, split, least, value_range

    def __call__(self, index: int) -> Tensor:
        """uint8 (3, height, width)."""
        return decode(os.path.join(self.root, self.split.paths[index]), self.least, self.value_range)

    def many(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """The images at `indices`, in order, decoded by torch's number of threads (one in a worker process)."""
        return map_ahead(self, indices, torch.get_num_threads())


class MappedImages:
    """Decoded images in one memory-mapped file that all workers and devices share.

    Args:
        folder: holds `pixels`, the concatenated (height, width, 3) uint8 images, and `places.npy`, (n, 3) int64 of
            (offset, height, width).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pixels = np.memmap(folder / "pixels", dtype=np.uint8, mode="r")
        self.places = np.load(folder / "places.npy", mmap_mode="r")

    def __getstate__(self) -> Path:
        return self.folder  # a spawned worker maps the file itself instead of receiving its content

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def __call__(self, index: int) -> Tensor:
        """uint8 (3, height, width)."""
        offset, height, width = self.places[index].tolist()
        # A copy, because torch has no read-only tensors; it takes a hundredth of the time of decoding.
        pixels = np.array(self.pixels[offset : offset + height * width * 3])
        return torch.from_numpy(pixels).view(height, width, 3).permute(2, 0, 1)

    def many(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """The images at `indices`, in order."""
        return map(self, indices)


class ChosenImages:
    """Some of the images of a larger split, which is cached as a whole.

    Args:
        images: of the larger split.
        rows: (n,) int64, positions in it.
    """

    def __init__(self, images: "DecodedImages", rows: np.ndarray) -> None:
        self.images, self.rows = images, rows

    def __call__(self, index: int) -> Tensor:
        """uint8 (3, height, width)."""
        return self.images(int(self.rows[index]))

    def many(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """The images at `indices`, in order."""
        return self.images.many([int(self.rows[i]) for i in indices])


DecodedImages = ImageFiles | MappedImages | ChosenImages


def open_images(
    root: Path,
    split: Split,
    least: int,
    cache: str | None,
    cache_dir: Path,
    value_range: Sequence[float] | None = None,
    pool: Split | None = None,
) -> DecodedImages:
    """Open the images of a split, cached as `data.cache` says.

    Args:
        root: the folder that the split's paths are relative to.
        split: the images; caching needs their digests.
        least: number of pixels that the shorter side must keep (see `decode`).
        cache: None, "disk" (in `cache_dir`, for later runs too) or "ram" (shared memory, for this run).
        cache_dir: `data.cache_dir`.
        value_range: the values of 16- and 32-bit pixels that become black and white (see `decode`).
        pool: in cross-validation, the images of all folds, which are cached together.

    Raises:
        UserError: not enough space, or no shared memory on this system.
    """
    if cache and pool and split.rows is not None:
        return ChosenImages(open_images(root, pool, least, cache, cache_dir, value_range), split.rows)
    files = ImageFiles(root, split, least, value_range)
    if cache is None:
        return files
    if cache == "ram":
        if not _SHARED_MEMORY.is_dir():
            raise UserError("data.cache=ram needs /dev/shm, which this system does not have: set data.cache=disk")
        cache_dir = _ram()
    assert len(split.digests) == len(split), "caching needs the digests of all images"
    key = cache_key(__name__, least, value_range, pixel_limit(), list(split.digests))
    remedy = "set data.cache=disk" if cache == "ram" else "set data.cache_dir=FOLDER"

    def build(folder: Path) -> None:
        _decode_all(files, len(split), folder)

    return MappedImages(cached_folder(cache_dir, "images", key, build, remedy))


def _ram() -> Path:
    """This run's folder in shared memory, removed when the first process of the run on this machine ends.

    The other processes that Lightning starts are its children and read the name from their environment. Those of
    torchrun and srun, which have the same parent, follow a link (see `_link`).
    """
    link = _link()
    if _RAM not in os.environ and local_rank() > 0:
        while not link.is_dir():  # the launcher ends this process if the first one fails
            time.sleep(0.1)
        os.environ[_RAM] = str(link.resolve())
    if _RAM not in os.environ:
        _remove_stale()
        new = Path(tempfile.mkdtemp(prefix=f".{_RUNS}", dir=_SHARED_MEMORY))  # hidden from _remove_stale until locked
        lock = FileLock(new / _ALIVE)
        lock.acquire()
        _locks.append(lock)
        folder = new.rename(new.with_name(new.name[1:]))
        os.environ[_RAM] = str(folder)
        _at_exit(shutil.rmtree, folder, ignore_errors=True)
        if is_externally_launched():
            new_link = link.with_name(f"{link.name}-{os.getpid()}")
            new_link.symlink_to(folder)
            new_link.replace(link)  # one of a killed run may have the same name
            _at_exit(link.unlink, missing_ok=True)
    return Path(os.environ[_RAM])


def _at_exit(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Call a function when this process ends; a forked worker, which inherits the registration, does not call it."""
    owner = os.getpid()

    def call_if_owner() -> None:
        if os.getpid() == owner:
            function(*arguments, **options)

    atexit.register(call_if_owner)


def _link() -> Path:
    """The link to the run's folder in shared memory, of the same name in all processes of the run on this machine.

    The number of the parent process is not enough: it is 1 in every container, and containers may share their memory.
    """
    namespace = Path("/proc/self/ns/pid")
    launch = [os.environ.get(name) for name in (TORCHRUN, "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")]
    run = fingerprint([os.getppid(), namespace.stat().st_ino if namespace.exists() else 0, *launch])
    return _SHARED_MEMORY / f".{_RUNS}{os.getuid()}-of-{run}"


def _remove_stale() -> None:
    """Remove the folders of this user's killed runs, and the links to them."""
    for folder in _SHARED_MEMORY.glob(f"{_RUNS}*"):
        with suppress(FileNotFoundError):  # a run that ends right now removes it
            lock = FileLock(folder / _ALIVE)
            if folder.stat().st_uid == os.getuid() and lock.acquire():
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()
    for link in _SHARED_MEMORY.glob(f".{_RUNS}{os.getuid()}-of-*"):
        if not link.is_dir():
            link.unlink(missing_ok=True)


def _decode_all(files: ImageFiles, count: int, folder: Path) -> None:
    places = np.zeros((count, 3), dtype=np.int64)
    offset = 0
    progress = tqdm(total=count, desc="decoding", unit="img", delay=2, leave=False, disable=None)
    with progress, (folder / "pixels").open("wb") as file:
        for i, image in enumerate(map_ahead(files, range(count), usable_cores())):
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            places[i] = offset, *pixels.shape[:2]
            offset += file.write(pixels.tobytes())
            progress.update()
    np.save(folder / "places.npy", places)

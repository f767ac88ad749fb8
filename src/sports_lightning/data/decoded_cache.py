"""The images of a split as uint8 tensors: decoded each time, or decoded once and kept in memory or on disk."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sports_lightning.data.decode import decode
from sports_lightning.data.image_folder import Split
from sports_lightning.errors import UserError
from sports_lightning.storage.disk_cache import cached_folder, fingerprint, library_versions
from sports_lightning.storage.locks import lock
from sports_lightning.storage.parallel import map_ahead, usable_cores

_SHARED_MEMORY = Path("/dev/shm")
_RUNS = "sports_lightning-"  # folders of runs in there
_RAM = "SPORTS_LIGHTNING_RAM"
_ALIVE = ".lock"  # is held for as long as the run lasts


class ImageFiles:
    """Decodes an image whenever it is asked for.

    Args:
        root: the folder that the split's paths are relative to.
        split: the images.
        least: pixels a side that are enough (see `decode`).
    """

    def __init__(self, root: Path, split: Split, least: int | None) -> None:
        self.root, self.split, self.least = root, split, least

    def __call__(self, index: int) -> Tensor:
        """uint8 (3, height, width)."""
        return decode(os.path.join(self.root, self.split.paths[index]), self.least)

    def many(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Those at these positions, in torch's threads: all cores, or one in a loading process."""
        return map_ahead(self, indices, torch.get_num_threads())


class MappedImages:
    """Decoded images in one memory-mapped file, which all workers and devices share.

    Args:
        folder: where `pixels` (every image's (height, width, 3) uint8, one after the other) and `places.npy`
            (n, 3) int64 (offset, height, width) are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pixels = np.memmap(folder / "pixels", dtype=np.uint8, mode="r")
        self.places = np.load(folder / "places.npy", mmap_mode="r")

    def __getstate__(self) -> Path:
        return self.folder  # a worker that is spawned maps the file too, instead of being sent what is in it

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def __call__(self, index: int) -> Tensor:
        """uint8 (3, height, width)."""
        offset, height, width = self.places[index].tolist()
        # A copy, for torch has no read-only tensors; it costs a hundredth of decoding.
        pixels = np.array(self.pixels[offset : offset + height * width * 3])
        return torch.from_numpy(pixels).view(height, width, 3).permute(2, 0, 1)

    def many(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Those at these positions."""
        return map(self, indices)


DecodedImages = ImageFiles | MappedImages


def open_images(root: Path, split: Split, least: int, cache: str | None, cache_dir: Path) -> DecodedImages:
    """The images of a split, kept decoded where `cache` says so.

    Args:
        root: the folder that the split's paths are relative to.
        split: the images, with their digests where they are to be kept.
        least: pixels a side that are enough (see `decode`).
        cache: None, "disk" (below `cache_dir`, for the runs to come) or "ram" (for this run).
        cache_dir: `data.cache_dir`.

    Raises:
        UserError: not enough room, or no shared memory on this system.
    """
    files = ImageFiles(root, split, least)
    if cache is None:
        return files
    if cache == "ram":
        if not _SHARED_MEMORY.is_dir():
            raise UserError("data.cache=ram needs /dev/shm, which this system has not got: use data.cache=disk")
        cache_dir = _ram()
    key = fingerprint(["images", library_versions(), least, list(split.digests)])
    return MappedImages(cached_folder(cache_dir, "images", key, lambda folder: _decode_all(files, len(split), folder)))


def _ram() -> Path:
    """The folder in shared memory of this run, removed when the process that came first ends.

    The other processes of a distributed run are its children and find the name in their environment.
    """
    if _RAM not in os.environ:
        _remove_stale()
        new = Path(tempfile.mkdtemp(prefix=f".{_RUNS}", dir=_SHARED_MEMORY))  # no dead run's, though not locked yet
        lock(new / _ALIVE)
        folder = new.rename(new.with_name(new.name[1:]))
        os.environ[_RAM] = str(folder)
        atexit.register(_remove_if_owner, os.environ[_RAM], os.getpid())
    return Path(os.environ[_RAM])


def _remove_stale() -> None:
    """Remove what runs of this user have left that were killed."""
    for folder in _SHARED_MEMORY.glob(f"{_RUNS}*"):
        with suppress(FileNotFoundError):  # a run that has ended meanwhile has removed it
            if folder.stat().st_uid == os.getuid() and (held := lock(folder / _ALIVE)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(held)


def _remove_if_owner(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker inherits the registration
        shutil.rmtree(folder, ignore_errors=True)


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

"""The outputs of a network for many images, in parts on disk: what is finished survives a killed process.

A part is named by a fingerprint of everything that its content depends on, so that a later command with the same folder
uses it only if it would compute the same.
"""

import io
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from sports_lightning.storage.disk_cache import fingerprint
from sports_lightning.storage.files import DAMAGED, write_bytes

IMAGES = 1024  # in a part


@dataclass(frozen=True)
class Part:
    """Outputs for consecutive files.

    Attributes:
        outputs: (n, …) float32; rows of unreadable files are undefined.
        problems: {position of a file in the part: why it cannot be read}.
    """

    outputs: Tensor
    problems: dict[int, str]


@dataclass(frozen=True)
class OutputParts:
    """The parts of the outputs for a list of files.

    Attributes:
        folder: holds the finished parts; it is created with the first one.
        paths: of all files.
        key: fingerprint of everything else that the outputs depend on.
    """

    folder: Path
    paths: Sequence[str]
    key: str

    def __len__(self) -> int:
        return -(-len(self.paths) // IMAGES)

    def positions(self, part: int) -> range:
        """The positions in `paths` of the files of a part."""
        return range(part * IMAGES, min((part + 1) * IMAGES, len(self.paths)))

    @cached_property
    def files(self) -> list[Path]:
        """The file of each part."""
        states = [
            [(self.paths[i], file_state(self.paths[i])) for i in self.positions(part)] for part in range(len(self))
        ]
        return [self.folder / f"{part:06d}-{fingerprint([self.key, state])}.npz" for part, state in enumerate(states)]

    def load(self, part: int) -> Part | None:
        """A finished part; None if it is not on this machine, or is damaged."""
        with suppress(*DAMAGED, BadZipFile), np.load(self.files[part], allow_pickle=False) as arrays:
            problems = zip(arrays["unreadable"].tolist(), arrays["reasons"].tolist(), strict=True)
            outputs = torch.from_numpy(arrays["outputs"])
            return Part(outputs, dict(problems)) if len(outputs) == len(self.positions(part)) else None
        return None

    def save(self, part: int, content: Part) -> None:
        """Store a part as finished.

        Raises:
            WriteFailed: no space or no permission.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            outputs=content.outputs.numpy(),
            unreadable=np.array(list(content.problems), dtype=np.int64),
            reasons=np.array(list(content.problems.values()), dtype=np.str_),
        )
        write_bytes(self.files[part], buffer.getbuffer())

    def remove(self) -> None:
        """Remove the finished parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class PartWriter:
    """Receives the outputs for the files of some parts, batch by batch, and stores every part that is complete.

    Args:
        parts: of all outputs.
        missing: the parts whose outputs arrive, in this order.
        problem: why the file of a path cannot be read.
    """

    parts: OutputParts
    missing: Sequence[int]
    problem: Callable[[str], str]
    _outputs: list[Tensor] = field(default_factory=list)
    _problems: dict[int, str] = field(default_factory=dict)  # by position in the part that is being filled
    _done: int = 0  # parts

    def receive(self, outputs: Tensor, readable: Tensor) -> None:
        """Take the outputs (n, …) float32 for the next n files, and whether each of them could be read (n,)."""
        while len(outputs):
            part = self.missing[self._done]
            positions = self.parts.positions(part)
            filled = sum(map(len, self._outputs))
            count = min(len(outputs), len(positions) - filled)
            for i in (~readable[:count]).nonzero().flatten().tolist():
                self._problems[filled + i] = self.problem(self.parts.paths[positions[filled + i]])
            self._outputs.append(outputs[:count])
            outputs, readable = outputs[count:], readable[count:]
            if filled + count == len(positions):
                self.parts.save(part, Part(torch.cat(self._outputs), self._problems))
                self._outputs, self._problems, self._done = [], {}, self._done + 1


def file_state(path: str) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds; (0, 0) of a file that is not accessible."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns

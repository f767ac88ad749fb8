"""A compact sequence of strings."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class PackedStrings(Sequence[str]):
    """Strings in one block of bytes: half the memory of a list, and shared with forked data workers.

    Reading a list of strings writes to their reference counts, so that a forked worker soon holds a copy of all of them
    (PyTorch issue 13246).

    Args:
        strings: file names and the like; bytes that are not UTF-8 (surrogate escapes) are preserved.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return os.fsdecode(self._bytes[self._ends[index] : self._ends[index + 1]])

    def __iter__(self) -> Iterator[str]:
        begin = 0
        for end in self._ends[1:].tolist():
            yield os.fsdecode(self._bytes[begin:end])
            begin = end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

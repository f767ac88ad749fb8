"""Image files that a user wants to have predicted; some of them may be unreadable."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sports_lightning.data.decode import decode
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.errors import UnreadableImage
from sports_lightning.storage.parallel import map_ahead

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InputFiles(Dataset[tuple[Tensor, bool]]):
    """Preprocessed images, in order. Item i is (uint8 (3, height, width), whether the file could be read).

    The image of a file that cannot be read is black.

    Attributes:
        paths: the files.
        preprocessing: the classifier's.
    """

    paths: Sequence[str]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, bool]]:
        """A batch, as torch's DataLoader requests it."""
        return list(self._decoded(indices, self.preprocessing.transform()))

    def items(self, transform: Transform) -> Iterator[tuple[Tensor, bool]]:
        """All items, with another transform of the decoded images uint8 (3, h, w)."""
        return self._decoded(range(len(self)), transform)

    def _decoded(self, indices: Iterable[int], transform: Transform) -> Iterator[tuple[Tensor, bool]]:
        def read(index: int) -> tuple[Tensor, bool]:
            try:
                image = decode(self.paths[index], self.preprocessing.least_side, self.preprocessing.value_range)
            except UnreadableImage:
                return transform(torch.zeros(3, *self.preprocessing.size, dtype=torch.uint8)), False
            return transform(image), True

        return map_ahead(read, indices, torch.get_num_threads())

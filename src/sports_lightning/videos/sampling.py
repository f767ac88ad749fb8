"""The times at which a video is looked at: at regular intervals, or by its shots."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

LONGEST = 5.0  # seconds of a shot for which one frame stands


@dataclass(frozen=True)
class Regular:
    """A frame every few seconds.

    Attributes:
        every: seconds between two frames.
    """

    every: float

    @property
    def longest_gap(self) -> float:
        """Seconds that a frame of unknown duration is taken to be shown."""
        return self.every

    @property
    def starts(self) -> Sequence[float]:
        """Times at which shots are known to begin."""
        return ()

    def at(self, number: int) -> float:
        """The time of a sample, by its number from 0."""
        return number * self.every

    def first_from(self, seconds: float) -> float:
        """The time of the first sample at or after a time."""
        return math.ceil(seconds / self.every - 1e-9) * self.every

    def count(self, seconds: float) -> int:
        """About how many samples a video of this duration has."""
        return int(seconds / self.every) + 1

    def spans(self, edges: np.ndarray) -> np.ndarray:
        """The time (n,) in seconds that each frame stands for, whose borders are `edges` (n + 1,)."""
        return np.full(len(edges) - 1, self.every)


@dataclass(frozen=True)
class PerShot:
    """Frames in equal parts of each shot, one for every five seconds at most.

    Attributes:
        starts: the times in seconds at which shots begin, the first one at 0.
        seconds: the end of the last shot.
    """

    starts: Sequence[float]
    seconds: float

    @property
    def longest_gap(self) -> float:
        """Seconds that a frame of unknown duration is taken to be shown."""
        return LONGEST

    @cached_property
    def times(self) -> list[float]:
        """The times of all samples: the middles of the parts of the shots."""
        found = []
        for start, end in pairwise([*self.starts, self.seconds]):
            parts = max(1, math.ceil((end - start) / LONGEST))
            found += [start + (i + 0.5) * (end - start) / parts for i in range(parts)]
        return found

    def at(self, number: int) -> float:
        """The time of a sample, by its number from 0; infinity after the last one."""
        return self.times[number] if number < len(self.times) else math.inf

    def first_from(self, seconds: float) -> float:
        """The time of the first sample at or after a time; infinity if there is none."""
        return self.at(bisect.bisect_left(self.times, seconds - 1e-9))

    def count(self, seconds: float) -> int:
        """How many samples there are."""
        return len(self.times)

    def spans(self, edges: np.ndarray) -> np.ndarray:
        """The time (n,) in seconds that each frame stands for, whose borders are `edges` (n + 1,)."""
        return np.diff(edges)


Sampling = Regular | PerShot


def edges_between(times: Sequence[float], seconds: float, starts: Sequence[float]) -> np.ndarray:
    """The borders (n + 1,) of the parts of a video for which n frames stand, in seconds.

    Between two frames, it is the time at which a shot is known to begin, or else their middle.

    Args:
        times: of the frames.
        seconds: duration of the video.
        starts: times at which shots begin.
    """
    edges = [0.0]
    for before, after in pairwise(times):
        place = bisect.bisect_left(starts, after + 1e-9) - 1
        is_cut = place >= 0 and starts[place] > before
        edges.append(starts[place] if is_cut else (before + after) / 2)
    return np.array([*edges, seconds])

"""Lines of least squares through readings, on which numbers are gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """V lines over time, one for each of the numbers in a reading.

    Attributes:
        middle: a time. mean: (V,), what stands there. slope: (V,), per unit of time.
        furthest: the largest distance of a number that was read from its line.
    """

    middle: float
    mean: Floats
    slope: Floats
    furthest: float

    @classmethod
    def through(cls, times: Sequence[int], values: Sequence[Sequence[float]]) -> Line:
        """Of readings: times (n,), of which at least two differ, and values (n, V) at each of them."""
        when, read = np.array(times, dtype=np.float64), np.array(values, dtype=np.float64)
        middle, mean = float(when.mean()), read.mean(0)
        slope = (when - middle) @ read / ((when - middle) ** 2).sum()
        away = np.abs(mean + np.outer(when - middle, slope) - read)
        return cls(middle, mean, slope, float(away.max(initial=0.0)))

    def at(self, time: int) -> list[float]:
        """What stands on the lines then."""
        return (self.mean + self.slope * (time - self.middle)).tolist()


def rounded(value: float) -> int:
    """To a whole number, half up."""
    return int(np.floor(value + 0.5))

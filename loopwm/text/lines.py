"""Lines of least squares through readings, on which numbers are gone on with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def along(times: Sequence[int], values: Sequence[Sequence[float]], at: int) -> list[float]:
    """What stands at time `at` on the lines through readings.

    Args:
        times: (n,), of which at least two differ. values: (n, V), at each of them.
    """
    when, read = np.array(times, dtype=np.float64), np.array(values, dtype=np.float64)
    middle = when.mean()
    slope = (when - middle) @ read / ((when - middle) ** 2).sum()
    return (read.mean(0) + slope * (at - middle)).tolist()


def rounded(value: float) -> int:
    """To a whole number, half up."""
    return int(np.floor(value + 0.5))

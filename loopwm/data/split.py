"""Which episodes are for training, validation and test: decided by what an episode contains, never by its position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from loopwm.errors import UserError

Split = Literal["train", "validation", "test"]

# Cumulative shares of the fingerprint range: 80% train, 10% validation, 10% test.
_UPPER_EDGES = (0.8, 0.9, 1.0)


def assign(fingerprints: Sequence[bytes]) -> np.ndarray:
    """Split index (0 train, 1 validation, 2 test) of each episode: (episodes,) int.

    Only the fingerprint of an episode decides, so appending, removing or reordering episodes moves none of the others,
    and two copies of one episode cannot end up on both sides.
    """
    # Eight bytes of a cryptographic hash are a uniform draw from [0, 1).
    draws = np.array([int.from_bytes(print_[:8], "little") / 2**64 for print_ in fingerprints])
    return np.searchsorted(_UPPER_EDGES, draws, side="right").clip(max=2)


def members(fingerprints: Sequence[bytes], split: Split) -> np.ndarray:
    """Indices of the episodes in `split`: int64, ascending.

    Raises:
        UserError: an unknown split.
    """
    names = get_args(Split)
    if split not in names:
        raise UserError(f"There is no split called '{split}'; choose one of: {', '.join(names)}.")
    return np.flatnonzero(assign(fingerprints) == names.index(split))

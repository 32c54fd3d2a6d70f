"""How long the windows of an update are, and how many: decided by its number and the seed alone, so that a resumed run
goes on."""

from __future__ import annotations

import numpy as np

from loopwm.train.config import TrainConfig


def longest_horizon(config: TrainConfig, update: int) -> int:
    """Eq. 22: K of update 0, 1, ...: min(Kmax, 1 + floor(update / Delta)), with Kmax = `train.window`."""
    if not config.curriculum:
        return config.window
    return min(config.window, 1 + update // config.curriculum)


def horizon(config: TrainConfig, update: int) -> int:
    """K of update 0, 1, ...: the longest of Eq. 22, or with `train.mixed_horizons` any up to it, evenly."""
    longest = longest_horizon(config, update)
    if not config.mixed_horizons:
        return longest
    # Counter-based, and apart from the sampler's draws, which leave this word of the counter at 0.
    bits = np.random.Philox(key=config.seed, counter=[0, 0, 1, update])
    return 1 + int(np.random.Generator(bits).integers(longest))


def draw_shape(config: TrainConfig, update: int) -> tuple[int, int]:
    """B and K of update 0, 1, ...: with `train.refill`, as many windows as have the transitions of a whole batch."""
    length = horizon(config, update)
    return (config.batch * config.window // length if config.refill else config.batch), length

"""Billiards as a camera above the table sees it: the same world, actions and labels, observed as images.

An image shows where the discs are and not how fast they move, so a model of this world has to remember.
"""

from __future__ import annotations

import gymnasium
import numpy as np

from loopwm.envs.physics.billiards import Billiards, BilliardsConfig, draw


class BilliardsPixels(gymnasium.ObservationWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """`Billiards`, observed as (pixels, pixels, 3) uint8; see `loopwm.envs.physics.billiards.draw`."""

    def __init__(self, config: BilliardsConfig | None = None) -> None:
        world = Billiards(config)
        super().__init__(world)
        self._config = world.config
        side = world.config.pixels
        self.observation_space = gymnasium.spaces.Box(0, 255, (side, side, 3), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The discs (M, 5) as an image."""
        return draw(observation, self._config)

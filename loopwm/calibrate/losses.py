"""What every candidate threshold costs on every calibration episode: measured by really leaving the loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwm.data.cache import Columns
from loopwm.evaluate.rollout import StepErrors, open_loop
from loopwm.evaluate.segments import Segments, tile
from loopwm.model.config import ExitConfig
from loopwm.model.world_model import WorldModel

MEASURES = ("one step ahead", "own rollout")
"""What is measured: o_{k+1} from o_k and a_k, and the mean over all steps of a rollout that sees o_k only."""


@dataclass(frozen=True)
class EpisodeErrors:
    """Errors per episode, for the two `MEASURES`, and what they cost.

    Attributes:
        error: (E, 2) mean normalised squared error of the episode's transitions.
        loops: mean loops per imagined step, over all of them.
    """

    error: npt.NDArray[np.float64]
    loops: float


@dataclass(frozen=True)
class Trial:
    """The calibration episodes, cut for both measures."""

    steps: Segments
    rollouts: Segments

    @classmethod
    def of(cls, columns: Columns, episodes: npt.NDArray[np.integer], horizon: int) -> Trial:
        """Every transition of `episodes` once for each measure."""
        return cls(tile(columns, episodes, 1), tile(columns, episodes, horizon))

    def errors(self, model: WorldModel, exit: ExitConfig | None) -> EpisodeErrors:
        """Errors at full depth (T = mu), or with an exit that acts on every step of a rollout."""
        parts = [open_loop(model, segments, exit=exit) for segments in (self.steps, self.rollouts)]
        columns = [
            per_episode(part, segments) for part, segments in zip(parts, (self.steps, self.rollouts), strict=True)
        ]
        return EpisodeErrors(np.stack(columns, axis=1), float(np.nanmean(parts[1].loops)))


def per_episode(errors: StepErrors, segments: Segments) -> npt.NDArray[np.float64]:
    """Mean error of each episode's transitions, (E,), episodes in ascending order."""
    _, row = np.unique(segments.transition_episode, return_inverse=True)
    return np.bincount(row, weights=errors.observation[segments.valid]) / np.bincount(row)

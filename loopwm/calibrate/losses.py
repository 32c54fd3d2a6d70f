"""What every candidate threshold costs on every calibration episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwm.data.cache import Columns
from loopwm.evaluate.rollout import open_loop
from loopwm.evaluate.segments import Segments, tile
from loopwm.evaluate.signals import LoopRecord, record_loops
from loopwm.model.config import ExitConfig, ExitRule
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
    """Calibration episodes, cut for both measures, and a model whose exit is tried on them.

    A step from what was seen does not depend on the steps before, so one pass at full depth answers for all thresholds.
    In a rollout every exit changes what comes after, so each threshold is really rolled out.

    Attributes:
        record: every loop of `steps`.
    """

    model: WorldModel
    steps: Segments
    rollouts: Segments
    record: LoopRecord

    @classmethod
    def of(
        cls, model: WorldModel, rule: ExitRule, columns: Columns, episodes: npt.NDArray[np.integer], horizon: int
    ) -> Trial:
        """Every transition of `episodes` once for each measure, with thresholds of `rule` to be tried."""
        steps = tile(columns, episodes, 1)
        record = record_loops(model, steps, model.default_loops, rules=(rule,))
        return cls(model, steps, tile(columns, episodes, horizon), record)

    def errors(self, exit: ExitConfig | None) -> EpisodeErrors:
        """Errors at full depth (T = mu), or with an exit."""
        mu = self.model.default_loops
        loops = (
            np.full(int(self.steps.valid.sum()), mu)
            if exit is None
            else self.record.loops(exit.rule, exit.threshold, mu)
        )
        rolled = open_loop(self.model, self.rollouts, exit=exit)
        error = (
            per_episode(self.record.error_after(loops), self.steps),
            per_episode(rolled.observation[self.rollouts.valid], self.rollouts),
        )
        return EpisodeErrors(np.stack(error, axis=1), float(np.nanmean(rolled.loops)))


def per_episode(error: npt.NDArray[np.floating], segments: Segments) -> npt.NDArray[np.float64]:
    """Mean of (n,) over each episode's transitions, (E,), episodes in ascending order."""
    _, row = np.unique(segments.transition_episode, return_inverse=True)
    return np.bincount(row, weights=error) / np.bincount(row)

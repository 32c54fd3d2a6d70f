"""What a run is measured on: transitions and stretches of recorded episodes, as many as asked for and as fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loopwm.data.cache import Columns
from loopwm.evaluate.config import EvaluateConfig
from loopwm.evaluate.segments import Segments, affordable, rollouts, rows_at_once, tile


@dataclass(frozen=True)
class Samples:
    """All of an evaluation.

    Attributes:
        steps: transitions to predict one step ahead. few: some others, for diagnostics.
        rollouts: stretches to imagine. fitting: the same of training episodes, for the controls.
    """

    steps: Segments
    few: Segments
    rollouts: Segments
    fitting: Segments

    @classmethod
    def of(cls, columns: Columns, held_out: np.ndarray, training: np.ndarray, config: EvaluateConfig) -> Samples:
        """From the episodes `held_out` and `training` (indices).

        Raises:
            UserError: no episode is long enough.
        """
        spec, seed = columns.meta.observation, config.seed
        warmup = config.watched(spec)
        watched = config.context + warmup
        most = config.context * affordable(columns, watched, -(-config.transitions // config.context))
        some = min(1000, 4 * rows_at_once(spec, watched, 1000))
        steps, few = (
            tile(columns, held_out, config.context, transitions=count, seed=chance, warmup=warmup)
            for count, chance in ((min(config.transitions, most), seed), (some, seed + 1))
        )
        # Beyond the longest episode there is nothing to compare with.
        longest = min(columns.ep_len[held_out].max(), columns.ep_len[training].max())
        horizon = max(1, int(min(config.horizon, longest - warmup)))
        fitting, long = (
            rollouts(
                columns,
                episodes,
                horizon,
                stride=stride,
                rows=affordable(columns, horizon + warmup, rows),
                seed=seed,
                warmup=warmup,
            )
            for episodes, stride, rows in (
                (training, 5, config.training_rollouts),
                (held_out, config.stride, config.rollouts),
            )
        )
        return cls(steps, few, long, fitting)

"""Means over windows, three ways, with intervals that resample whole episodes.

    micro   every window counts the same
    macro   every task type counts the same
    mix     task types count as often as in the LoopWM report's evaluation (`REPORT_MIX`)

Resamples are drawn within each task type, as the numbers of episodes per type are a choice, not an outcome. Every
figure is linear in the scores, so the aggregate of a difference of two systems' scores is their paired difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwm.evaluate.bootstrap import Bootstrap, Interval, interval

REPORT_MIX: dict[str, dict[str, int]] = {
    "scienceworld": {
        "Incline": 150,
        "Genetics": 120,
        "Grow": 65,
        "Melt": 63,
        "Chemistry": 27,
        "Conductivity": 23,
        "Find": 13,
        "Boil": 9,
        "Freeze": 8,
        "Power": 7,
        "Thermometer": 6,
        "StateChange": 5,
        "LifeStages": 2,
        "Lifespan": 2,
    },
    "alfworld": {"pick": 255, "clean": 96, "cool": 66, "look": 43, "heat": 40},
}
"""World -> task type -> windows in the report's evaluation."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Aggregate:
    """One score, averaged.

    Attributes:
        micro, macro, mix: over all windows; `mix` is over the types there are, None where none of them is in the mix.
        by_type: task type -> mean over its windows.
    """

    micro: Interval
    macro: Interval
    mix: Interval | None
    by_type: dict[str, Interval]


class Aggregator:
    """Averages scores of the same windows; all scores share their resamples.

    Args:
        task_types: of each of n windows.
        episodes: (n,) which episode each window is of.
        mix: task type -> weight.
        resamples, seed: of the bootstrap.
    """

    def __init__(
        self,
        task_types: Sequence[str],
        episodes: Sequence[int],
        mix: Mapping[str, float],
        *,
        resamples: int = 1000,
        seed: int = 0,
    ):
        types = np.asarray(task_types)
        episode = np.asarray(episodes)
        self.types = sorted(set(task_types))
        self._rows = {name: np.flatnonzero(types == name) for name in self.types}
        self._bootstraps = {
            name: Bootstrap(episode[rows], resamples=resamples, seed=seed + number)
            for number, (name, rows) in enumerate(self._rows.items())
        }
        self._mix = {name: mix[name] for name in self.types if name in mix}
        self._episodes = len(np.unique(episode))

    @property
    def episodes(self) -> dict[str, int]:
        """Task type -> episodes."""
        return {name: len(bootstrap.ids) for name, bootstrap in self._bootstraps.items()}

    def aggregate(self, scores: Floats) -> list[Aggregate]:
        """The averages of every column of scores (n, C), which must all be finite."""
        counts: dict[str, int] = {name: len(rows) for name, rows in self._rows.items()}
        totals: dict[str, Floats] = {}
        resampled: dict[str, Floats] = {}
        drawn: dict[str, Floats] = {}
        for name, rows in self._rows.items():
            bootstrap = self._bootstraps[name]
            sums = bootstrap.sums(scores[rows])
            totals[name] = sums.sum(0)
            resampled[name] = bootstrap.resample(sums)
            drawn[name] = bootstrap.resample(bootstrap.sums(np.ones(len(rows))))[:, None]
        means = {name: totals[name] / counts[name] for name in self.types}
        spread = {name: resampled[name] / drawn[name] for name in self.types}
        n = len(scores)

        def weighted(weights: Mapping[str, float], column: int) -> Interval:
            whole = sum(weights.values())
            estimate = sum(weight * means[name][column] for name, weight in weights.items()) / whole
            cloud = sum(weight * spread[name][:, column] for name, weight in weights.items()) / whole
            used = sum(counts[name] for name in weights), sum(self.episodes[name] for name in weights)
            return interval(float(estimate), np.asarray(cloud), *used)

        result: list[Aggregate] = []
        for column in range(scores.shape[1]):
            micro_cloud = sum(resampled[name][:, column] for name in self.types) / sum(
                drawn[name][:, 0] for name in self.types
            )
            micro = interval(float(scores[:, column].mean()), np.asarray(micro_cloud), n, self._episodes)
            by_type = {name: weighted({name: 1.0}, column) for name in self.types}
            macro = weighted(dict.fromkeys(self.types, 1.0), column)
            result.append(Aggregate(micro, macro, weighted(self._mix, column) if self._mix else None, by_type))
        return result

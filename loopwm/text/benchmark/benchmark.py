"""The benchmark: windows of held-out episodes, every system on the same ones, one result.

A trained model joins as one more predictor beside the rules:

    result = run_benchmark("scienceworld", episodes, {"my model": model}, BenchmarkConfig())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Interval
from loopwm.text.benchmark.aggregate import REPORT_MIX, Aggregate, Aggregator, Floats
from loopwm.text.benchmark.ceiling import COLUMNS, ReplayNoise, unknowable
from loopwm.text.benchmark.errors import MISSES, answered, misses
from loopwm.text.benchmark.lexicon import load_lexicon
from loopwm.text.benchmark.metrics import METRICS, Scorer
from loopwm.text.benchmark.predictor import Predictor, Scored, score, windows_digest
from loopwm.text.benchmark.rules import SYSTEMS, Rules, RulesConfig
from loopwm.text.benchmark.windows import (
    Window,
    WindowConfig,
    find_track,
    refuse_overlap,
    sample_windows,
)
from loopwm.text.recording import TextEpisode


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is asked, and how the answers are summarised.

    Attributes:
        windows: which windows.
        resamples: R of the bootstrap over episodes.
        seed: of the bootstrap.
        rules: systems of rules to compare with, names of `rules.SYSTEMS`.
        compared: training windows of every task type on which rules are chosen.
    """

    windows: WindowConfig = field(default_factory=WindowConfig)
    resamples: int = 1000
    seed: int = 0
    rules: tuple[str, ...] = tuple(SYSTEMS)
    compared: int = RulesConfig.per_type

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise UserError(f"{self.resamples} resamples give no interval; ask for 1000.")
        for name in self.rules:
            RulesConfig(name)


@dataclass(frozen=True)
class SystemResult:
    """One system's figures.

    Attributes:
        steps: for each step 1 ... K: metric -> averages over windows. The last step is the headline.
        misses: cause of `errors.MISSES` -> share of the windows that are wrong at the last step for it.
        against: other system -> its paired difference, this one minus that one, of `em` at the last step.
        by_answer: those of `errors.ANSWERS` there are -> `em` at the last step, over windows; not in older results.
    """

    steps: list[dict[str, Aggregate]]
    misses: dict[str, Aggregate]
    against: dict[str, Aggregate]
    by_answer: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkResult:
    """All that one run of the benchmark measured.

    Attributes:
        world, config: what was asked.
        windows: n. `digest`: of the windows; results compare only where it is the same.
        types: task type -> windows; `episodes`: task type -> episodes.
        systems: name -> figures, weakest rules first.
        ceiling: name of `ceiling.COLUMNS` -> share of the targets at the last step.
        replay: how often a replay differs, where one was given.
    """

    world: str
    config: BenchmarkConfig
    windows: int
    digest: str
    types: dict[str, int]
    episodes: dict[str, int]
    systems: dict[str, SystemResult]
    ceiling: dict[str, Aggregate]
    replay: ReplayNoise | None = None

    @property
    def last(self) -> int:
        """K."""
        return find_track(self.config.windows.track).steps

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and names, with a flat `figures` of the headline EMs in percent."""
        return {**asdict(self), "figures": self.figures()}

    def figures(self) -> dict[str, float]:
        """`em_NAME` (report's mix, or macro where there is none), `low_` and `high_`, in percent, at the last step."""
        found: dict[str, float] = {"windows": self.windows}
        for name, system in self.systems.items():
            headline = headline_of(system.steps[-1]["em"])
            key = name.replace(" ", "_")
            for prefix, value in (("em", headline.mean), ("low", headline.low), ("high", headline.high)):
                found[f"{prefix}_{key}"] = round(100 * value, 2)
        for column in ("unusual", "novel"):
            found[f"ceiling_{column}"] = round(100 * (1 - headline_of(self.ceiling[column]).mean), 2)
        return found


def headline_of(aggregate: Aggregate) -> Interval:
    """The report's mix, or macro where the world has none."""
    return aggregate.mix or aggregate.macro


def prepare(episodes: Sequence[TextEpisode], config: BenchmarkConfig) -> tuple[list[Window], list[TextEpisode]]:
    """The windows asked about, and the training episodes of the same actors.

    Raises:
        UserError: there are no such windows, no training episodes, or both share games.
    """
    chosen = config.windows
    windows = sample_windows(episodes, chosen)
    training = [
        episode
        for episode in episodes
        if episode.split == "train" and (not chosen.actors or episode.actor in chosen.actors)
    ]
    refuse_overlap(windows, training)
    return windows, training


def run_benchmark(
    world: str,
    episodes: Sequence[TextEpisode],
    predictors: Mapping[str, Predictor] | None = None,
    config: BenchmarkConfig | None = None,
    *,
    replay: ReplayNoise | None = None,
    step: Callable[[str], None] = lambda name: None,
) -> BenchmarkResult:
    """Score rules and predictors on the same windows.

    Args:
        world: `scienceworld` or `alfworld`; decides the lexicon and the report's mix.
        episodes: training and held-out ones together; the rules are counted on those of the split `train`.
        predictors: further systems by name.
        config: what is asked.
        replay: shown beside the ceiling.
        step: told the name of the system that is asked next.

    Raises:
        UserError: unknown world, no windows, no training episodes, or windows of games that were trained on.
    """
    config = config or BenchmarkConfig()
    scorer = Scorer(load_lexicon(world))
    windows, training = prepare(episodes, config)
    track = find_track(config.windows.track)
    scored: list[Scored] = []
    for name in config.rules:
        step(name)
        rules = Rules(training, track, RulesConfig(name, config.compared))
        scored.append(score(name, rules, windows, scorer))
    for name, predictor in (predictors or {}).items():
        step(name)
        scored.append(score(name, predictor, windows, scorer))
    types, owners = [window.task_type for window in windows], [window.episode for window in windows]
    again = {"resamples": config.resamples, "seed": config.seed}
    aggregator = Aggregator(types, owners, REPORT_MIX[world], **again)
    by_answer = Aggregator([answered(window) for window in windows], owners, {}, **again)
    step("ceiling")
    firsts = unknowable(windows, training)[:, -1]
    unusual = firsts[:, COLUMNS.index("unusual")]
    return BenchmarkResult(
        world=world,
        config=config,
        windows=len(windows),
        digest=windows_digest(windows),
        types={name: types.count(name) for name in aggregator.types},
        episodes=aggregator.episodes,
        systems={
            one.name: replace(
                _summary(one, scored, aggregator, misses(windows, one.predictions, unusual)),
                by_answer=by_answer.aggregate(one.metric("em")[:, -1:])[0].by_type,
            )
            for one in scored
        },
        ceiling=dict(zip(COLUMNS, aggregator.aggregate(firsts), strict=True)),
        replay=replay,
    )


def _summary(one: Scored, everyone: Sequence[Scored], aggregator: Aggregator, wrong: Floats) -> SystemResult:
    n, steps, metrics = one.scores.shape
    averages = aggregator.aggregate(one.scores.reshape(n, steps * metrics))
    others = [other for other in everyone if other is not one]
    differences = [one.metric("em")[:, -1] - other.metric("em")[:, -1] for other in others]
    paired = aggregator.aggregate(np.stack(differences, axis=1)) if others else []
    return SystemResult(
        steps=[dict(zip(METRICS, averages[k * metrics : (k + 1) * metrics], strict=True)) for k in range(steps)],
        misses=dict(zip(MISSES, aggregator.aggregate(wrong), strict=True)),
        against={other.name: aggregate for other, aggregate in zip(others, paired, strict=True)},
    )

"""The benchmark: windows of held-out episodes, every system on the same ones, one result.

A trained model joins as one more predictor beside the rules:

    result = run_benchmark("scienceworld", episodes, {"my model": model}, BenchmarkConfig())
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Interval
from loopwm.text.benchmark.aggregate import REPORT_MIX, Aggregate, Aggregator, Floats
from loopwm.text.benchmark.ceiling import COLUMNS, unknowable
from loopwm.text.benchmark.errors import MISSES, answered, misses
from loopwm.text.benchmark.lexicon import load_lexicon
from loopwm.text.benchmark.metrics import METRICS, Scorer
from loopwm.text.benchmark.predictor import Predictor, Scored, score, windows_digest
from loopwm.text.benchmark.replaying import ReplayNoise
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
        hits: of every window in turn, `1` where the last answer is exact and `0` where not; not in older results.
    """

    steps: list[dict[str, Aggregate]]
    misses: dict[str, Aggregate]
    against: dict[str, Aggregate]
    by_answer: dict[str, Interval] = field(default_factory=dict)
    hits: str = ""


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

    def measured(self, digest: str, but: Collection[str]) -> dict[str, SystemResult]:
        """What is known of all systems `but` some, about the windows of this digest.

        Raises:
            UserError: it is about others, or does not say which of them were hit.
        """
        found = {name: one for name, one in self.systems.items() if name not in but}
        if self.digest != digest:
            raise UserError(
                f"The earlier result on track {self.config.windows.track} is of other windows; ask "
                f"{' and '.join(found)} again."
            )
        silent = [name for name, one in found.items() if len(one.hits) != self.windows]
        if silent:
            raise UserError(f"The earlier result does not say which windows {' and '.join(silent)} hit; ask again.")
        return found

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
        UserError: there are no such windows, or they share games with training episodes, whoever acted in these.
    """
    chosen = config.windows
    windows = sample_windows(episodes, chosen)
    training = [episode for episode in episodes if episode.split == "train"]
    refuse_overlap(windows, training)
    return windows, [one for one in training if not chosen.actors or one.actor in chosen.actors]


def run_benchmark(
    world: str,
    episodes: Sequence[TextEpisode],
    predictors: Mapping[str, Predictor] | None = None,
    config: BenchmarkConfig | None = None,
    *,
    replay: ReplayNoise | None = None,
    earlier: Sequence[BenchmarkResult] = (),
    step: Callable[[str], None] = lambda name: None,
) -> BenchmarkResult:
    """Score rules and predictors on the same windows.

    Args:
        world: `scienceworld` or `alfworld`; decides the lexicon and the report's mix.
        episodes: training and held-out ones together; the rules are counted on those of the split `train`.
        predictors: further systems by name.
        config: what is asked.
        replay: shown beside the ceiling.
        earlier: results on the same windows; systems that only these have are compared with, and not asked again.
        step: told the name of the system that is asked next.

    Raises:
        UserError: unknown world, no windows, no training episodes, windows of games that were trained on, or `earlier`
            is of other windows or does not say which of them were hit.
    """
    config = config or BenchmarkConfig()
    lexicon = load_lexicon(world)
    scorer = Scorer(lexicon)
    windows, training = prepare(episodes, config)
    track = find_track(config.windows.track)
    known: dict[str, SystemResult] = {}
    for one in earlier:
        known |= one.measured(windows_digest(windows), but=(*config.rules, *(predictors or {})))
    scored: list[Scored] = []
    for name in config.rules:
        step(name)
        rules = Rules(training, track, RulesConfig(name, config.compared))
        scored.append(score(name, rules, windows, scorer))
    for name, predictor in (predictors or {}).items():
        step(name)
        scored.append(score(name, predictor, windows, scorer))
    step("ceiling")
    firsts = unknowable(windows, training, lexicon)[:, -1]
    averages = _Averages.over(windows, firsts[:, COLUMNS.index("unusual")], REPORT_MIX[world], config)
    hits: dict[str, Floats] = {one.name: one.metric("em")[:, -1] for one in scored}
    hits |= {name: np.array(list(one.hits), dtype=float) for name, one in known.items()}
    systems = {one.name: averages.of(one) for one in scored} | known
    types = [window.task_type for window in windows]
    return BenchmarkResult(
        world=world,
        config=config,
        windows=len(windows),
        digest=windows_digest(windows),
        types={name: types.count(name) for name in averages.overall.types},
        episodes=averages.overall.episodes,
        systems={name: replace(one, against=averages.paired(name, hits)) for name, one in systems.items()},
        ceiling=dict(zip(COLUMNS, averages.overall.aggregate(firsts), strict=True)),
        replay=replay,
    )


@dataclass(frozen=True)
class _Averages:
    """How scores of these windows are averaged: over task types, and by what the last action had been answered.

    Attributes:
        unusual: (n,), whose last target cannot be known.
    """

    windows: Sequence[Window]
    unusual: Floats
    overall: Aggregator
    by_answer: Aggregator

    @classmethod
    def over(
        cls, windows: Sequence[Window], unusual: Floats, mix: Mapping[str, float], config: BenchmarkConfig
    ) -> _Averages:
        owners, again = [window.episode for window in windows], {"resamples": config.resamples, "seed": config.seed}
        overall = Aggregator([window.task_type for window in windows], owners, mix, **again)
        return cls(windows, unusual, overall, Aggregator([answered(one) for one in windows], owners, {}, **again))

    def of(self, one: Scored) -> SystemResult:
        """All but what it is paired with."""
        n, steps, metrics = one.scores.shape
        averages, hit = self.overall.aggregate(one.scores.reshape(n, steps * metrics)), one.metric("em")[:, -1]
        wrong = self.overall.aggregate(misses(self.windows, one.predictions, self.unusual))
        return SystemResult(
            steps=[dict(zip(METRICS, averages[k * metrics : (k + 1) * metrics], strict=True)) for k in range(steps)],
            misses=dict(zip(MISSES, wrong, strict=True)),
            against={},
            by_answer=self.by_answer.aggregate(hit[:, None])[0].by_type,
            hits="".join(str(int(each)) for each in hit),
        )

    def paired(self, name: str, hits: Mapping[str, Floats]) -> dict[str, Aggregate]:
        """Differences of a system to all others, of whose windows is known which were `hits` (n,)."""
        others = [other for other in hits if other != name]
        if not others:
            return {}
        differences = self.overall.aggregate(np.stack([hits[name] - hits[other] for other in others], axis=1))
        return dict(zip(others, differences, strict=True))

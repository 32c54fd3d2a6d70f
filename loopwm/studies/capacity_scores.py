"""Errors of the capacity study: of every model in every world, in that world's own standard deviations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loopwm.data.cache import open_memmap
from loopwm.data.mix import filled
from loopwm.data.statistics import compute_statistics
from loopwm.data.store import Store
from loopwm.evaluate.bootstrap import Bootstrap, Interval, interval
from loopwm.evaluate.evaluation import plain
from loopwm.evaluate.rollout import one_step, open_loop
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments, rollouts, tile
from loopwm.files import write_json
from loopwm.model.core import LoopedCore
from loopwm.studies.config import CapacityStudyConfig
from loopwm.train.checkpoint import load

if TYPE_CHECKING:
    from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class Field:
    """What models are measured on in one world.

    Attributes:
        scorer: a part of a mixture is in standard deviations of its world already, so these are its units; only what
            changes in this world counts.
        steps: test transitions, in fours, of which the later ones carry what was seen before. futures: what is
            imagined. fewer: a quarter of the steps, for depths.
    """

    world: str
    scorer: Scorer
    steps: Segments
    futures: Segments
    fewer: Segments

    @classmethod
    def of(cls, world: str, part: Path, config: CapacityStudyConfig) -> Field:
        """From the part of a mixture, as a model of this world alone sees it."""
        with Store.open(part) as store:
            columns, spec = open_memmap(store), store.meta.observation
            changing = compute_statistics(columns, store.split("train")).observation_changes
            test = store.split("test")
        scorer = Scorer(spec, np.zeros(spec.num_features), np.ones(spec.num_features), changing)
        steps = tile(columns, test, 4, transitions=config.transitions)
        longest = int(columns.ep_len[test].max())
        futures = rollouts(columns, test, min(config.horizon, longest), rows=config.transitions // 10)
        fewer = tile(columns, test, 4, transitions=max(1, config.transitions // 4))
        return cls(world, scorer, steps, futures, fewer)

    def filled(self, entities: int) -> Field:
        """The same transitions as a model of the mixture sees them, with so many entities."""
        spec = self.scorer.spec

        def whole(segments: Segments) -> Segments:
            return replace(segments, observations=filled(segments.observations, spec.names, entities))

        common = replace(spec, shape=(entities, spec.num_features))
        parts = (whole(segments) for segments in (self.steps, self.futures, self.fewer))
        return Field(self.world, replace(self.scorer, spec=common), *parts)


@dataclass(frozen=True)
class Errors:
    """Errors (n,) of a kind of model in one world, averaged over its seeds, and the episodes (n,) they belong to."""

    error: np.ndarray
    episode: np.ndarray


@dataclass(frozen=True)
class Scores:
    """A kind of model, several seeds of it.

    Attributes:
        one_step, open_loop: world -> errors; open loop, the mean over the imagined steps.
        depth: world -> T -> one-step error, of a looped model where it was asked for.
        minutes: spent training, mean over seeds.
    """

    runs: tuple[Path, ...]
    parameters: int
    flops_step: int
    minutes: float
    one_step: dict[str, Errors]
    open_loop: dict[str, Errors]
    depth: dict[str, dict[str, float]]

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Scores:
        """As `kept` writes it."""
        one_step, open_loop = (
            {world: Errors(np.array(one["error"], float), np.array(one["episode"])) for world, one in errors.items()}
            for errors in (stored["one_step"], stored["open_loop"])
        )
        runs = tuple(map(Path, stored["runs"]))
        return cls(**{**stored, "runs": runs, "one_step": one_step, "open_loop": open_loop})

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        found = asdict(self)
        for errors in (*found["one_step"].values(), *found["open_loop"].values()):
            errors |= {name: column.tolist() for name, column in errors.items()}
        return plain(found | {"runs": [str(run) for run in self.runs]})


def measured(runs: Sequence[Path], fields: Sequence[Field], deep: bool = False) -> Scores:
    """Measure runs that differ in their seed alone.

    Args:
        deep: at other depths as well.
    """
    from loopwm.train.runs import finished

    models = [load(run) for run in runs]
    results = [finished(run) for run in runs]
    one, far, depth = {}, {}, {}
    for field in fields:
        one[field.world] = _pooled([_single(model, field.steps, field.scorer) for model in models], field.steps)
        far[field.world] = _pooled([_imagined(model, field) for model in models], field.futures)
        core = models[0].core
        if deep and isinstance(core, LoopedCore):
            mu = models[0].default_loops
            depth[field.world] = {
                str(t): float(np.mean([np.nanmean(_single(model, field.fewer, field.scorer, t)) for model in models]))
                for t in sorted({1, 2, 4, mu, 2 * mu, 8 * mu})
            }
    return Scores(
        runs=tuple(runs),
        parameters=models[0].num_parameters(),
        flops_step=models[0].flops().total,
        minutes=float(np.mean([result.seconds for result in results if result is not None])) / 60,
        one_step=one,
        open_loop=far,
        depth=depth,
    )


def kept(path: Path, command: str, measure: Callable[[], Scores]) -> Scores:
    """What `measure` returns, or returned before under the same command: a study that was interrupted goes on."""
    if not path.is_file() or json.loads(path.read_text())["command"] != command:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"command": command, "scores": measure().to_json()})
    # Read in any case, so that an interruption changes no digit.
    return Scores.from_json(json.loads(path.read_text())["scores"])


def _single(model: WorldModel, steps: Segments, scorer: Scorer, loops: int | None = None) -> np.ndarray:
    return one_step(model, steps, loops, scorer=scorer).observation


def _imagined(model: WorldModel, field: Field) -> np.ndarray:
    return open_loop(model, field.futures, scorer=field.scorer).observation


def _pooled(errors: list[np.ndarray], segments: Segments) -> Errors:
    return Errors(np.mean(errors, axis=0)[segments.valid], segments.transition_episode)


def figures_of(scores: dict[str, Scores], worlds: Sequence[str]) -> dict[str, Interval]:
    """Errors in every world, and those of the shared model over those of all others, with intervals.

    `mean` over worlds is the geometric mean of their ratios: no world counts more because it is harder.
    """
    found: dict[str, Interval] = {}
    others = sorted({name.partition(" ")[0] for name in scores} - {"shared"})
    for key in ("one_step", "open_loop"):
        logs: dict[str, list[tuple[float, np.ndarray, int, int]]] = {other: [] for other in others}
        for world in worlds:
            ours: Errors = getattr(scores["shared"], key)[world]
            bootstrap = Bootstrap(ours.episode)
            found[f"{key} shared {world}"] = bootstrap.mean(ours.error)
            for other in others:
                theirs: Errors = getattr(scores.get(other) or scores[f"{other} {world}"], key)[world]
                found[f"{key} {other} {world}"] = bootstrap.mean(theirs.error)
                found[f"{key} shared/{other} {world}"] = bootstrap.ratio(ours.error, theirs.error)
                top, bottom = bootstrap.sums(ours.error), bootstrap.sums(theirs.error)
                spread = np.log(bootstrap.resample(top) / bootstrap.resample(bottom))
                estimate = float(np.log(top.sum() / bottom.sum()))
                logs[other].append((estimate, spread, len(ours.error), len(bootstrap.ids)))
        for other, parts in logs.items():
            estimates, spreads, counts, episodes = zip(*parts, strict=True)
            mean = float(np.exp(np.mean(estimates)))
            found[f"{key} shared/{other} mean"] = interval(
                mean, np.exp(np.mean(spreads, axis=0)), sum(counts), sum(episodes)
            )
    return found

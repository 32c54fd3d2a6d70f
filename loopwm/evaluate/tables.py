"""The tables of the report: every cell already as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.comparison import Comparison
from loopwm.evaluate.diagnostics import Spread
from loopwm.evaluate.early import in_words
from loopwm.evaluate.evaluation import Evaluation
from loopwm.evaluate.figures import labels
from loopwm.evaluate.findings import number
from loopwm.evaluate.scores import psnr
from loopwm.evaluate.speed import StepTime


@dataclass(frozen=True)
class Cell:
    """A value, and the small print below it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Column heads, and rows of a head and its cells."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def systems(evaluations: Sequence[Evaluation], comparison: Comparison) -> Table:
    """The comparison at a glance; one column per run."""
    pairs = [None, *comparison.pairs]
    rows: list[tuple[str, tuple[Cell, ...]]] = [
        ("Parameters", _each(evaluations, lambda one: Cell(f"{one.run.parameters:,}"))),
        ("MFLOPs per step", _each(evaluations, lambda one: Cell(f"{one.run.flops / 1e6:.2f}", _loops(one)))),
    ]
    for index, time in enumerate(comparison.speed[0]):
        times = [of_run[index] for of_run in comparison.speed]
        rows.append((f"ms per step, batch {time.batch}", tuple(_decoded(one) for one in times)))
        rows.append(("the same, not decoded", tuple(_latent(one) for one in times)))
    rows += [
        ("Learning rate", _each(evaluations, lambda one: Cell(f"{one.run.learning_rate:g}"))),
        ("Updates, seed", _each(evaluations, lambda one: Cell(f"{one.run.updates:,}, {one.run.seed}"))),
        ("One-step error", _each(evaluations, lambda one: interval_cell(one.one_step))),
        ("Leading run's error over this one's", tuple(_ratio(pair.ratio if pair else None, pair) for pair in pairs)),
    ]
    steps = len(evaluations[0].horizon[0].error)
    for step in sorted({min(10, steps), steps}):
        cells = _each(evaluations, lambda one, at=step - 1: interval_cell(one.horizon[0].error[at]))
        rows.append((f"Error {step} steps ahead, imagined", cells))
    if any(one.early for one in evaluations):
        rows.append(("One-step error, leaving early", _each(evaluations, _early)))
        rows.append((f"Error {steps} steps ahead, leaving early", _each(evaluations, _early_far)))
    rows += [
        (
            f"Leading run's over this one's, all {steps} steps",
            tuple(_ratio(pair.open_loop if pair else None, pair) for pair in pairs),
        ),
        ("Reward: squared error (by the mean)", _each(evaluations, _reward)),
        ("Continue: Brier score (by the base rate)", _each(evaluations, _brier)),
        (
            f"Continue: AUC, {evaluations[0].task.terminations} endings",
            _each(evaluations, lambda one: interval_cell(one.task.auc)),
        ),
    ]
    return Table(tuple(labels(evaluations)), tuple(rows))


def controls(evaluation: Evaluation) -> Table:
    """One-step and imagined errors of the simple predictors."""
    last = len(evaluation.horizon[0].error)
    steps = sorted({min(10, last), last})
    curves = {curve.name: curve for curve in evaluation.horizon if curve.kind == "control"}
    rows = [("this model", (interval_cell(evaluation.one_step), *_ahead(evaluation.horizon[0].error, steps)))]
    rows += [
        (name, (interval_cell(error), *_ahead(curves[name].error, steps)))
        for name, error in evaluation.controls.items()
    ]
    return Table(("one step", *(f"{step} steps" for step in steps)), tuple(rows))


def pictures(evaluation: Evaluation) -> Table | None:
    """Peak signal-to-noise ratios of imagined images; None where observations are none."""
    curves = [curve for curve in evaluation.horizon if "pixel" in curve.rmse]
    if not curves:
        return None
    last = len(curves[0].error)
    steps = sorted({1, min(10, last), last})

    def cell(rmse: Interval) -> Cell:
        # A larger error is a smaller ratio.
        return Cell(f"{psnr(rmse.mean):.1f}", f"{psnr(rmse.high):.1f}\u2013{psnr(rmse.low):.1f}")

    rows = tuple((curve.name, tuple(cell(curve.rmse["pixel"][step - 1]) for step in steps)) for curve in curves)
    return Table(tuple(f"{step} step{'s'[: step != 1]}" for step in steps), rows)


def depth(evaluation: Evaluation) -> Table:
    """Scores at every T."""
    rows = tuple(
        (
            f"T = {point.loops}" + (" (mu)" if point.loops == evaluation.run.loops > 1 else ""),
            (
                interval_cell(point.error),
                ratio_cell(point.relative),
                interval_cell(point.reward),
                interval_cell(point.brier),
            ),
        )
        for point in evaluation.depth
    )
    return Table(("one-step error", "over error at mu", "reward", "continue (Brier)"), rows)


def ranks(evaluation: Evaluation) -> Table:
    """How error follows each difficulty label."""
    rows = tuple(
        (table.label.replace("_", " "), (interval_cell(table.rank), interval_cell(table.matched_rank)))
        for table in evaluation.difficulty
    )
    return Table(("rank correlation with error", "at matched target norm"), rows)


def inside(evaluations: Sequence[Evaluation]) -> Table:
    """Diagnostics, one column per run."""

    def retention(one: Evaluation) -> Cell:
        spread_ = one.retention
        return (
            Cell("no loop")
            if spread_ is None
            else Cell(number(spread_.mean), f"{spread_.low:.3f}\u2013{spread_.high:.3f}")
        )

    def gap(one: Evaluation) -> Cell:
        relative = next(point.relative for point in one.depth if point.loops == 1)
        return Cell("no loop") if one.run.loops == 1 else ratio_cell(relative)

    def settled(one: Evaluation) -> Cell:
        if one.settling is None:
            return Cell("no loop")
        at_mu = one.settling.median[one.run.loops - 1]
        return Cell(number(at_mu), f"x {one.settling.rate:.2g} a loop")

    def stretch(one: Evaluation) -> Cell:
        found = one.contraction
        if found is None:
            return Cell("no loop")
        return Cell(number(found.norm.median), f"{_range(found.norm)}, largest {number(found.norm.largest)}")

    def fading(one: Evaluation) -> Cell:
        found = one.contraction
        if found is None:
            return Cell("no loop")
        return Cell(number(found.radius.median), f"{_range(found.radius)}; 1 or more: {found.expanding} of {found.n}")

    def norms(one: Evaluation) -> Cell:
        low, high = min(one.stability.norm_low), max(one.stability.norm_high)
        return Cell(between(low, high), f"{one.stability.steps:,} steps")

    def reach(one: Evaluation) -> Cell:
        return Cell(number(max(one.stability.reach)), f"recorded {number(one.stability.recorded_reach)}")

    rows = (
        ("Abar: mean, range", _each(evaluations, retention)),
        ("Error at T = 1 over that at mu", _each(evaluations, gap)),
        ("Latent's relative change in loop mu", _each(evaluations, settled)),
        ("Contraction: spectral norm of a loop", _each(evaluations, stretch)),
        ("Contraction: spectral radius of a loop", _each(evaluations, fading)),
        (
            "Token correlation",
            _each(evaluations, lambda one: Cell(number(one.tokens.correlation), f"n = {one.tokens.n}")),
        ),
        (
            "Effective rank of the tokens",
            _each(evaluations, lambda one: Cell(number(one.tokens.effective_rank), f"of {one.tokens.tokens}")),
        ),
        ("Latent norm, long rollout", _each(evaluations, norms)),
        ("Largest decoded feature (std)", _each(evaluations, reach)),
        (
            "Numbers that are not finite",
            _each(evaluations, lambda one: Cell(str(one.nonfinite + one.stability.nonfinite))),
        ),
    )
    return Table(tuple(labels(evaluations)), rows)


def provenance(evaluations: Sequence[Evaluation], command: str, now: dict[str, str]) -> Table:
    """Where the numbers come from: command, data, versions, seeds."""
    main = evaluations[0]
    digests = sorted({one.run.data_digest for one in evaluations})
    rows = [
        ("Command", command),
        ("World", main.run.world),
        ("Recording", f"{main.run.data}, digest {', '.join(digests)}"),
        ("Evaluated on", f"{main.run.episodes} {main.config.split} episodes, {main.run.transitions:,} transitions"),
        ("Runs", ", ".join(one.run.name for one in evaluations)),
        ("Seeds", f"training {', '.join(str(one.run.seed) for one in evaluations)}; evaluation {main.config.seed}"),
        ("Bootstrap", f"{main.config.resamples} resamples of episodes, 95% percentile intervals"),
        ("Versions", ", ".join(f"{name} {value}" for name, value in now.items())),
    ]
    if main.run.versions != now:
        rows.append(("Evaluated with", ", ".join(f"{name} {value}" for name, value in main.run.versions.items())))
    return Table((), tuple((name, (Cell(text),)) for name, text in rows))


def settings(evaluations: Sequence[Evaluation]) -> Table:
    """Every option of every run."""
    columns = [dict(flattened(one.run.config)) for one in evaluations]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = tuple((name, tuple(Cell(column.get(name, "")) for column in columns)) for name in names)
    return Table(tuple(labels(evaluations)), rows)


def flattened(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested options as (dotted name, text)."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value)


def interval_cell(value: Interval | None) -> Cell:
    """An estimate with its interval below."""
    return Cell("-") if value is None else Cell(number(value.mean), between(value.low, value.high))


def ratio_cell(value: Interval) -> Cell:
    """A ratio near 1: three decimals."""
    return Cell(f"{value.mean:.3f}", f"{value.low:.3f}\u2013{value.high:.3f}")


def between(low: float, high: float) -> str:
    """A range; where a sign would make a dash unreadable, in words."""
    return f"{number(low)} to {number(high)}" if low < 0 else f"{number(low)}\u2013{number(high)}"


def _range(spread: Spread) -> str:
    return between(spread.low, spread.high)


def _each(evaluations: Sequence[Evaluation], cell: Callable[[Evaluation], Cell]) -> tuple[Cell, ...]:
    return tuple(cell(one) for one in evaluations)


def _ahead(error: Sequence[Interval], steps: Sequence[int]) -> tuple[Cell, ...]:
    return tuple(interval_cell(error[step - 1]) for step in steps)


def _decoded(time: StepTime) -> Cell:
    return Cell(number(time.decoded_median), between(time.decoded_low, time.decoded_high))


def _latent(time: StepTime) -> Cell:
    return Cell(number(time.median), between(time.low, time.high))


def _loops(evaluation: Evaluation) -> str:
    return f"T = {evaluation.run.loops}" if evaluation.run.loops > 1 else ""


def _ratio(ratio: Interval | None, pair: object) -> Cell:
    if pair is None:
        return Cell("1", "leading run")
    return Cell("-", "other data") if ratio is None else ratio_cell(ratio)


def _early(evaluation: Evaluation) -> Cell:
    found = evaluation.early
    if found is None:
        return Cell("-", "all loops only" if evaluation.run.loops > 1 else "no loop")
    return Cell(
        number(found.one_step.mean), f"{in_words(found.exit, evaluation.run.loops)}; {number(found.loops.mean)} loops"
    )


def _early_far(evaluation: Evaluation) -> Cell:
    found = evaluation.early
    if found is None:
        return Cell("-")
    last = found.open_loop[-1]
    return Cell(number(last.mean), f"{between(last.low, last.high)}; {number(found.open_loop_loops.mean)} loops")


def _reward(evaluation: Evaluation) -> Cell:
    scores = evaluation.task
    return Cell(number(scores.reward.mean), number(scores.reward_variance))


def _brier(evaluation: Evaluation) -> Cell:
    scores = evaluation.task
    return Cell(number(scores.brier.mean), number(scores.brier_base))

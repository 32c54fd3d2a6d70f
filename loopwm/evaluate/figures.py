"""Which figures the report shows, and how to read each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.comparison import Comparison
from loopwm.evaluate.depth import DifficultyTable
from loopwm.evaluate.evaluation import Curve, Evaluation
from loopwm.evaluate.findings import SYSTEM_NAMES, contact_table, finite, spread
from loopwm.evaluate.plots import MUTED, SERIES, Axis, Dash, Line, bar_figure, line_figure

COLOURS = {"looped": SERIES[0], "stack-equal-params": SERIES[1], "stack-equal-flops": SERIES[2]}
FLOOR_DASH: Dash = ":"
CONTROL_DASHES: tuple[Dash, ...] = ((0, (1, 1.5)), (0, (4, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (2, 2)))


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        name: unique on the page. title: what it shows.
        svg: the drawing.
        caption: how to read it. worry: what would be bad.
    """

    name: str
    title: str
    svg: str
    caption: str
    worry: str


def labels(evaluations: Sequence[Evaluation]) -> list[str]:
    """A name per run: its system, with the run's name where a system occurs twice."""
    systems = [evaluation.run.system for evaluation in evaluations]
    return [
        SYSTEM_NAMES.get(system, system) + (f" ({evaluation.run.name})" if systems.count(system) > 1 else "")
        for system, evaluation in zip(systems, evaluations, strict=True)
    ]


def depth_figure(evaluations: Sequence[Evaluation], comparison: Comparison) -> Figure | None:
    """One-step error against the number of loops, relative to mu loops; stacks are level lines.

    Ratios are paired, so their intervals leave out what all systems share: that some episodes are harder than others.
    """
    main, mu = evaluations[0], evaluations[0].run.loops
    if mu == 1:
        return None
    loops = [point.loops for point in main.depth]
    lines = [Line(labels(evaluations)[0], loops, [point.relative for point in main.depth], colour_of(main), marker="o")]
    for label, other, pair in zip(labels(evaluations)[1:], evaluations[1:], comparison.pairs, strict=True):
        if pair.ratio is not None:
            level = Interval(
                1 / pair.ratio.mean, 1 / pair.ratio.high, 1 / pair.ratio.low, pair.ratio.n, pair.ratio.episodes
            )
            lines.append(Line(label, [loops[0], loops[-1]], [level, level], colour_of(other), dash="--"))
    ticks = tuple((count, str(count)) for count in loops)
    y = Axis(f"one-step error / error of the looped model at T = {mu}")
    return Figure(
        "depth",
        "What the loops buy, one step ahead",
        line_figure("depth", lines, Axis("loops T", log=True, ticks=ticks), y, level=1.0),
        f"One-step error of the looped model at T loops, relative to its error at T = {mu} ({spread(main.one_step)}), "
        "around which it was trained. Stacks have no loops to vary: level lines, below 1 where they are better. "
        f"n = {main.one_step.n:,} transitions of {main.one_step.episodes} episodes, intervals paired by episode.",
        "a flat line (the loops are ignored), or a line that turns up on the right (overthinking).",
    )


def difficulty_figures(evaluations: Sequence[Evaluation]) -> list[Figure]:
    """Error by number of contacts, then at matched target norm: contacts, and the label that still tells most."""
    table = contact_table(evaluations[0])
    if table is None:
        return []
    name, counts = table.label.replace("_", " "), ", ".join(f"{bin.name}: {bin.n}" for bin in table.bins)
    plain = Figure(
        "difficulty",
        "Harder steps, larger errors",
        _by_bin("difficulty", evaluations, table, relative=False),
        f"One-step error by {name} of the step, with 95% intervals. Transitions per group: {counts}.",
        "a steep rise. But hard steps also change more, which the next figure takes out.",
    )
    telling = max(evaluations[0].difficulty, key=lambda other: other.matched_rank.mean)
    matched = [table] if telling.label == table.label else [table, telling]
    return [plain, *(_matched_figure(evaluations, one) for one in matched)]


def _matched_figure(evaluations: Sequence[Evaluation], table: DifficultyTable) -> Figure:
    name = table.label.replace("_", " ")
    return Figure(
        f"matched-{table.label}",
        f"By {name}, at matched size of the change",
        _by_bin(f"matched-{table.label}", evaluations, table, relative=True),
        "Each group against all OTHER transitions whose targets are equally large (same target norm). At 1, the group "
        f"is as hard as its size suggests. Rank correlation of {name} and error of the leading run: "
        f"{spread(table.rank)}, at matched target norm {spread(table.matched_rank)}.",
        "values far above 1 on the right: these steps are hard in themselves, and the model does not resolve them.",
    )


def _by_bin(name: str, evaluations: Sequence[Evaluation], table: DifficultyTable, relative: bool) -> str:
    """Errors of every run per bin of `table`; runs that were binned otherwise are left out."""
    groups, bars = [bin.name for bin in table.bins], []
    for label, one in zip(labels(evaluations), evaluations, strict=True):
        for other in one.difficulty:
            if other.label == table.label and [bin.name for bin in other.bins] == groups:
                at = other.loops.index(one.run.loops)
                values = [bin.relative[at] if relative else bin.error[at] for bin in other.bins]
                bars.append(Line(label, range(len(values)), values, colour_of(one)))
    y = Axis("error / error of equally large changes") if relative else Axis("one-step error (log scale)", log=True)
    x = Axis(f"{table.label.replace('_', ' ')} in the step")
    return bar_figure(name, groups, bars, x, y, level=1.0 if relative else None)


def gain_figure(evaluations: Sequence[Evaluation]) -> Figure | None:
    """What the loops remove by difficulty, plain and relative to equally large changes."""
    looped = next((one for one in evaluations if one.run.loops > 1), None)
    table = contact_table(looped) if looped else None
    if looped is None or table is None or any(bin.gain is None for bin in table.bins):
        return None
    places, groups = list(range(len(table.bins))), [bin.name for bin in table.bins]
    bars = [
        Line("all of them", places, [bin.gain for bin in table.bins], SERIES[0]),
        Line(
            "relative to equally large changes",
            places,
            [bin.relative_gain for bin in table.bins],
            SERIES[3],
            marker="s",
        ),
    ]
    name = table.label.replace("_", " ")
    x, y = Axis(f"{name} in the step"), Axis(f"error at T = {looped.run.loops} / error at T = 1")
    return Figure(
        "gain",
        "Where the loops help",
        bar_figure("gain", groups, bars, x, y, level=1.0),
        "What is left of the one-loop error after all loops: lower means the loops helped more. The second series "
        "divides by the same quotient of other transitions with equally large targets.",
        "both series at 1: loops help nowhere. Second series at 1 everywhere: the loops do not care about difficulty.",
    )


def horizon_figures(evaluations: Sequence[Evaluation]) -> list[Figure]:
    """Open-loop error against the horizon, normalised and in environment units."""
    main = evaluations[0]
    model = main.horizon[0]
    counts = [one.n for one in model.error]
    shared = (
        f"Started from one observation, then {len(model.error)} steps from actions alone. n = {counts[0]} rollouts at "
        f"step 1 and {counts[-1]} at step {len(counts)}: an episode that ends is counted up to its end. "
    )
    figures = [
        Figure(
            "horizon",
            "Imagining with eyes shut",
            _horizon("horizon", evaluations, lambda curve: curve.error, "open-loop error"),
            shared
            + "Grey: controls without a world model. The floor is the one-step error when every true observation "
            "is shown: a rollout that never drifts. Curves that leave the top are far worse than guessing the average.",
            "a coloured line above a grey one: there, the simple control is the better forecast.",
        )
    ]
    for group in model.rmse:
        if group == "other":
            continue
        pixels = group == "pixel"
        figures.append(
            Figure(
                f"horizon-{group}",
                f"{group.capitalize()} error{', of 255' if pixels else ' in environment units'}",
                _horizon(
                    f"horizon-{group}",
                    evaluations,
                    lambda curve, group=group: curve.rmse[group],
                    "RMSE of a pixel" if pixels else "RMSE per coordinate",
                ),
                f"Root mean square error of {group}, per {'channel' if pixels else 'coordinate'}, same rollouts.",
                "a steep start: the picture is wrong before it can be used for planning.",
            )
        )
    return figures


def settling_figure(evaluations: Sequence[Evaluation]) -> Figure | None:
    """Relative change of the latent per loop."""
    looped = [(label, one) for label, one in zip(labels(evaluations), evaluations, strict=True) if one.settling]
    if not looped:
        return None
    lines = []
    for label, one in looped:
        assert one.settling is not None
        loops = range(1, len(one.settling.median) + 1)
        bands = [
            Interval(median, low, high, one.settling.n, 0)
            for median, low, high in zip(one.settling.median, one.settling.low, one.settling.high, strict=True)
        ]
        lines.append(Line(label if len(looped) > 1 else "", loops, bands, colour_of(one)))
    main = looped[0][1].settling
    assert main is not None
    return Figure(
        "settling",
        "Does the loop settle?",
        line_figure("settling", lines, Axis("loop"), Axis("relative change of the latent in that loop", log=True)),
        f"How much one more loop still changes the latent: median, band from 10% to 90% of {main.n} transitions. Late "
        f"loops change it by a factor of {main.rate:.2g} from one to the next.",
        "a plateau or a rise: the loop cycles or diverges, and its answer depends on when it is stopped.",
    )


def stability_figure(evaluations: Sequence[Evaluation]) -> Figure:
    """The reach of decoded observations in a very long rollout."""
    lines = []
    for label, one in zip(labels(evaluations), evaluations, strict=True):
        steps = [one.stability.every * (k + 1) for k in range(len(one.stability.reach))]
        lines.append(Line(label, steps, one.stability.reach, colour_of(one)))
    main = evaluations[0].stability
    lines.append(Line("largest in the recordings", [0, main.steps], [main.recorded_reach] * 2, MUTED, dash=":"))
    return Figure(
        "stability",
        f"{main.steps:,} imagined steps",
        line_figure("stability", lines, Axis("imagined step"), Axis("largest decoded feature (standard deviations)")),
        f"Imagining on and on. Latent norms stay within [{min(main.norm_low):.3g}, {max(main.norm_high):.3g}], which "
        f"normalising the latent enforces; numbers that are not finite: {main.nonfinite}. What is not enforced is that "
        "decoded observations stay possible.",
        "lines above the dotted one: states no recording ever showed; or any number that is not finite.",
    )


def training_figure(evaluations: Sequence[Evaluation], logs: Sequence[list[dict[str, Any]]]) -> Figure | None:
    """Training loss and validation error over updates."""
    lines = []
    for label, one, log in zip(labels(evaluations), evaluations, logs, strict=True):
        colour = colour_of(one)
        points = [(line["update"], line["observation"]) for line in log if line.get("observation") is not None]
        checks = [(line["update"], line["validation"]["one_step"]) for line in log if "validation" in line]
        if points:
            lines.append(Line(label, *smoothed(points), colour))
        if checks:
            x, y = zip(*checks, strict=True)
            lines.append(Line("", x, y, colour, dash=":", marker="o"))
    if not lines:
        return None
    return Figure(
        "training",
        "Loss and validation error",
        line_figure("training", lines, Axis("update"), Axis("normalised squared error", log=True)),
        "Lines: observation loss of the training windows, smoothed, part of them imagined. Dots: one-step error on the "
        "validation episodes, averaged weights. The two measure different things and need not meet.",
        "dots that rise while the line falls (overfitting), or lines still falling steeply at the end (stopped early).",
    )


def _horizon(
    name: str,
    evaluations: Sequence[Evaluation],
    pick: Callable[[Curve], Sequence[Interval]],
    y: str,
) -> str:
    """Every run's open-loop curve, the leading run's floor, and the controls in grey."""
    main, lines = evaluations[0], []
    for label, one in zip(labels(evaluations), evaluations, strict=True):
        values = pick(one.horizon[0])
        # One band is enough: bands of several systems on the same episodes hide each other.
        lines.append(_curve(label, values if one is main else means(values), colour_of(one)))
    for curve, dash in zip(main.horizon[1:], (FLOOR_DASH, *CONTROL_DASHES), strict=False):
        floor = curve.kind == "floor"
        label = "floor (truth in view)" if floor else curve.name
        lines.append(_curve(label, means(pick(curve)), colour_of(main) if floor else MUTED, dash))
    # A control that runs away must not flatten everything else.
    known = [value for curve in main.horizon if curve.kind != "control" for value in means(pick(curve))]
    top = 1.6 * max((value for value in known if finite(value) < float("inf")), default=1.0)
    last = len(main.horizon[0].error)
    ticks = tuple((step, str(step)) for step in (1, 2, 5, 10, 20, 40, 80, 160, 320) if step <= last)
    x = Axis("steps imagined (log scale)", log=True, ticks=ticks)
    return line_figure(name, lines, x, Axis(y, limits=(0, top)))


def _curve(label: str, values: Sequence[Interval | float], colour: str, dash: Dash = "-") -> Line:
    return Line(label, range(1, len(values) + 1), values, colour, dash)


def smoothed(points: Sequence[tuple[int, float]], most: int = 60) -> tuple[list[float], list[float]]:
    """Averages of neighbouring points, at most `most` of them."""
    every = -(-len(points) // most)
    chunks = [points[first : first + every] for first in range(0, len(points), every)]
    x, y = ([sum(point[axis] for point in chunk) / len(chunk) for chunk in chunks] for axis in (0, 1))
    return x, y


def colour_of(evaluation: Evaluation) -> str:
    """One colour per kind of system, the same in every figure."""
    return COLOURS.get(evaluation.run.system, MUTED)


def means(values: Sequence[Interval]) -> list[float]:
    """The estimates without their intervals."""
    return [value.mean for value in values]

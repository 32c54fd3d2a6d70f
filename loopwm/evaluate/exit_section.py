"""The report's section on leaving the loop early: what it costs, who gets the loops, and which rule to use."""

from __future__ import annotations

from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.early import in_words
from loopwm.evaluate.evaluation import Evaluation
from loopwm.evaluate.figures import Figure
from loopwm.evaluate.findings import percent, spread
from loopwm.evaluate.frontier import Allocation, Frontier, RuleCurve
from loopwm.evaluate.plots import MUTED, SERIES, Axis, Line, bar_figure, line_figure
from loopwm.evaluate.tables import Cell, Table, interval_cell
from loopwm.model.config import EXIT_RULES, ExitConfig

COLOURS = dict(zip(EXIT_RULES, (MUTED, *(SERIES[k] for k in (1, 2, 0, 3, 5, 6))), strict=False))
TOP = 1.25
"""Error over that at T = mu where the frontier's drawing ends."""


def shown_exit(evaluation: Evaluation) -> tuple[ExitConfig | None, int | None]:
    """The exit that the animation shows, and its cap: the one asked for, else the one with fewest loops."""
    if evaluation.early is not None:
        return evaluation.early.exit, evaluation.run.loops
    curves = evaluation.frontier.curves if evaluation.frontier else ()
    exits = [
        (one.best.point, ExitConfig(one.rule, one.best.point.threshold))
        for one in curves
        if one.best is not None and one.rule != "fixed"
    ]
    if not exits:
        return None, None
    point, exit = min(exits, key=lambda pair: pair[0].loops.mean)
    return exit, point.cap


def sentences(evaluation: Evaluation) -> list[str]:
    """What the section says in words; nothing for a stack."""
    found = evaluation.frontier
    if found is None:
        return []
    point = found.winner.point
    said = [
        f"Fewest loops at no more than {100 * found.tolerance:g}% above the error of all {found.mu} loops: "
        f"{in_words(found.fewest_loops, found.fewest_loops_cap)}. It makes {spread(point.loops)} loops a transition, "
        f"{percent(found.fewest_loops_share)} of {found.mu}, at an excess of {_percents(point.excess)}, "
        f"n = {found.n:,} transitions of {point.excess.episodes} episodes."
    ]
    if found.fewest_loops.rule != "fixed":
        said += [_who(one) for one in found.winner.allocation[:1]]
    time = evaluation.exit_speed
    if time is not None:
        said.append(
            f"Imagining {time.steps} steps at batch {time.batch} with it takes {percent(time.share)} "
            f"[{percent(time.share_low)}, {percent(time.share_high)}] of the time of all loops (median and 10% to 90% "
            f"of {time.rounds} interleaved rounds), at {time.loops:.2f} loops a step."
        )
    if evaluation.early is not None:
        early = evaluation.early
        said.append(
            f"Asked for with the evaluation, {in_words(early.exit, found.mu)}: one-step error {spread(early.one_step)} "
            f"at {spread(early.loops)} loops, an excess of {_percents(early.excess)}; imagined over "
            f"{len(early.open_loop)} steps an excess of {_percents(early.open_loop_excess)} at "
            f"{spread(early.open_loop_loops)} loops."
        )
    said += [f"Left out: {reason}" for reason in found.refused.values()]
    return said


def _who(found: Allocation) -> str:
    name = found.label.replace("_", " ")
    easiest = f"{spread(found.easiest)} where there is none" if found.easiest else "no transition is without it"
    return (
        f"Its loops follow {name} with a rank correlation of {spread(found.rank)}, at matched target norm "
        f"{spread(found.matched_rank)}: {easiest}, {spread(found.hardest)} in the hardest tenth."
    )


def figures(evaluation: Evaluation) -> list[Figure]:
    """The frontier, loops by difficulty, loops at matched target norm."""
    found = evaluation.frontier
    if found is None:
        return []
    drawn = [frontier_figure(found), loops_figure(found), matched_figure(found)]
    return [figure for figure in drawn if figure is not None]


def _shallow(found: Frontier) -> list[RuleCurve]:
    """The rules that let rows leave, with mu as their cap; larger caps look alike in a drawing."""
    return [curve for curve in found.curves if curve.rule != "fixed" and curve.cap == found.mu and curve.points]


def frontier_figure(found: Frontier) -> Figure:
    """Error against block calls for every rule."""
    lines = []
    for curve in (found.curves[0], *_shallow(found)):
        points = sorted(
            (point for point in curve.points if point.loops.mean <= found.mu), key=lambda point: point.loops.mean
        )
        lines.append(
            Line(
                curve.rule,
                [point.loops.mean for point in points],
                [1 + point.excess.mean for point in points],
                COLOURS[curve.rule],
                dash=":" if curve.rule == "fixed" else "-",
                marker="s" if curve.rule == "fixed" else "o",
            )
        )
    known = [value for line in lines for value in line.y if isinstance(value, float) and value > 0]
    bottom = min([0.99, *known]) - 0.01
    return Figure(
        "frontier",
        "What leaving early costs",
        line_figure(
            "frontier",
            lines,
            Axis("loops (block calls) per transition", limits=(0.5, found.mu + 0.5)),
            Axis(f"one-step error / error at T = {found.mu}", limits=(bottom, TOP)),
            level=1 + found.tolerance,
        ),
        "Each point is one threshold of an exit rule, or for fixed one number of loops for all. The dotted line is the "
        f"tolerated excess of {100 * found.tolerance:g}%; thresholds far too large lie above the drawing. "
        f"n = {found.n:,} transitions; intervals are in the table.",
        "a rule on or above the line of fixed: it spends loops no better than giving everybody the same.",
    )


def loops_figure(found: Frontier) -> Figure | None:
    """Loops per bin of the label that is easiest to understand, for every rule where it is equally good."""
    curves = [(curve, curve.best) for curve in _shallow(found) if curve.best is not None]
    if not curves or not curves[0][1].allocation:
        return None
    index = next((k for k, one in enumerate(curves[0][1].allocation) if one.label == "contacts"), 0)
    shown = curves[0][1].allocation[index]
    bars = [
        Line(
            curve.rule,
            range(len(shown.bins)),
            [one.loops for one in best.allocation[index].bins],
            COLOURS[curve.rule],
        )
        for curve, best in curves
    ]
    name = shown.label.replace("_", " ")
    counts = ", ".join(f"{one.name}: {one.n}" for one in shown.bins)
    return Figure(
        "exit-loops",
        "Who gets the loops",
        bar_figure(
            "exit-loops", [one.name for one in shown.bins], bars, Axis(f"{name} in the step"), Axis("mean loops")
        ),
        f"Mean loops by {name} of the step, each rule at its threshold with fewest loops within the tolerated excess, "
        f"with 95% intervals. Transitions per group: {counts}.",
        "a level row of points: the rule does not tell easy steps from hard ones.",
    )


def matched_figure(found: Frontier) -> Figure | None:
    """Loops against the label among transitions of equal target norm."""
    cloud = found.scatter
    if cloud is None or found.fewest_loops.rule == "fixed":
        return None
    name, middles = cloud.label.replace("_", " "), [(k + 0.5) / 10 for k in range(10)]
    rank = found.winner.allocation[0].matched_rank
    lines = [
        Line("one transition", cloud.rank, cloud.extra, MUTED, dash="none", marker="."),
        Line("mean of all in a tenth", middles, cloud.bins, COLOURS[found.fewest_loops.rule], marker="o"),
    ]
    return Figure(
        "exit-matched",
        f"Loops against {name}, at matched size of the change",
        line_figure(
            "exit-matched",
            lines,
            Axis(f"{name}: rank among equally large changes"),
            Axis("loops above their mean"),
            level=0,
        ),
        f"Every transition among those whose target is as large (same target norm): how its {name} ranks, and how many "
        f"loops it makes more than they do on average, with {in_words(found.fewest_loops, found.fewest_loops_cap)}. "
        f"Rank correlation {spread(rank)}. {len(cloud.rank)} of {found.n:,} transitions are drawn.",
        f"a level line: beyond the size of the change, {name} buys no loops.",
    )


def table(evaluation: Evaluation) -> Table:
    """Every rule and cap at its threshold with fewest loops."""
    found = evaluation.frontier
    if found is None:
        return Table((), ())
    rows, heads = [], ["threshold", "loops", f"of {found.mu}", "excess error"]
    for curve in found.curves:
        name = curve.rule if curve.rule == "fixed" else f"{curve.rule}, T at most {curve.cap}"
        if curve.best is None:
            rows.append((name, (Cell("none is good enough"),)))
            continue
        point, allocation = curve.best.point, curve.best.allocation[:1]
        threshold = f"T = {point.cap}" if curve.rule == "fixed" else f"{point.threshold:g}"
        cells = [
            Cell(threshold),
            interval_cell(point.loops),
            Cell(percent(curve.best.share)),
            _excess_cell(point.excess),
        ]
        for one in allocation:
            told = len({bin.loops.mean for bin in one.bins}) > 1
            cells += [interval_cell(value if told else None) for value in (one.rank, one.matched_rank)]
            cells += [interval_cell(value) for value in (one.easiest, one.hardest)]
        rows.append((name, tuple(cells)))
    labels = found.curves[0].best.allocation[:1] if found.curves[0].best else ()
    for one in labels:
        name = one.label.replace("_", " ")
        heads += [
            f"rank correlation with {name}",
            "at matched target norm",
            f"loops at no {name}",
            "in the hardest tenth",
        ]
    return Table(tuple(heads), tuple(rows))


def _excess_cell(excess: Interval) -> Cell:
    return Cell(f"{100 * excess.mean:.2f}%", f"{100 * excess.low:.2f} to {100 * excess.high:.2f}%")


def _percents(excess: Interval) -> str:
    return f"{100 * excess.mean:.2f}% [{100 * excess.low:.2f}%, {100 * excess.high:.2f}%]"

"""Which figures the report of text runs shows, and how to read each of them."""

from __future__ import annotations

from collections.abc import Sequence

from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.figures import COLOURS, CONTROL_DASHES, Figure, smoothed
from loopwm.evaluate.plots import MUTED, SERIES, Axis, Line, bar_figure, line_figure
from loopwm.text.benchmark.benchmark import headline_of
from loopwm.text.benchmark.errors import MISSES
from loopwm.text.benchmark.looping import KINDS, Looping
from loopwm.text.benchmark.tables import INDICATIVE, complement, headline_name, reported
from loopwm.text.report.findings import em
from loopwm.text.report.runs import TextRun
from loopwm.text.report.stored import Asked


def training_figures(runs: Sequence[TextRun]) -> list[Figure]:
    """Loss per word with the validation's, and the share of texts that are sure."""
    return [figure for figure in (_loss(runs), _sure(runs)) if figure is not None]


def track_figures(asked: Asked) -> list[Figure]:
    """EM by step, and errors by cause."""
    return [*([_steps(asked)] if asked.result.last > 1 else []), _misses(asked)]


def looping_figures(name: str, found: Looping) -> list[Figure]:
    """EM at T, loops by kind of text, and latents against words."""
    figures = [_depth(name, found), _kinds(name, found)]
    return [*figures, _latents(name, found)] if len(found.latent) > 1 else figures


def colours(runs: Sequence[TextRun]) -> list[str]:
    """One per run: that of its system, another where a system occurs twice."""
    spare = iter([*SERIES[3:], *[MUTED] * len(runs)])
    used: set[str] = set()
    found = []
    for run in runs:
        colour = COLOURS.get(run.system, MUTED)
        found.append(next(spare) if colour in used else colour)
        used.add(colour)
    return found


def hundredfold(one: Interval) -> Interval:
    """A share in percent."""
    return Interval(100 * one.mean, 100 * one.low, 100 * one.high, one.n, one.episodes)


def _loss(runs: Sequence[TextRun]) -> Figure | None:
    lines = []
    for run, colour in zip(runs, colours(runs), strict=True):
        points = [(line["update"], line["observation"]) for line in run.log if _number(line.get("observation"))]
        if points:
            lines.append(Line(run.label, *smoothed(points), colour))
        for view, dash, marker in (("one_step", ":", "o"), ("open_loop", "--", "s")):
            x, y = _validation(run, view)
            if x:
                lines.append(Line("", x, y, colour, dash=dash, marker=marker))
    if not lines:
        return None
    return Figure(
        "training",
        "Loss of a word",
        line_figure("training", lines, Axis("update"), Axis("negative log-likelihood of a word (nats)", log=True)),
        "Lines: of the training windows, smoothed. Dots: of the validation episodes with every observation seen, "
        "squares with the first one alone; averaged weights.",
        "dots or squares that rise while the line falls (overfitting), or lines that still fall steeply at the end.",
    )


def _sure(runs: Sequence[TextRun]) -> Figure | None:
    lines = []
    for run, colour in zip(runs, colours(runs), strict=True):
        for view, dash, marker in (("one_step_sure", "-", "o"), ("open_loop_sure", "--", "s")):
            x, y = _validation(run, view)
            if x:
                label = run.label if view == "one_step_sure" else ""
                lines.append(Line(label, x, [100 * value for value in y], colour, dash=dash, marker=marker))
    if not lines:
        return None
    return Figure(
        "sure",
        "Texts without a doubtful word",
        line_figure("sure", lines, Axis("update"), Axis("texts, percent")),
        "Validation texts all of whose words have more than half of the probability, which is a lower bound of exact "
        "matches. Dots: every observation seen; squares: the first one alone.",
        "lines that have stopped rising early, or squares far below the dots: what is imagined is soon unsure.",
    )


def _steps(asked: Asked) -> Figure:
    result, steps = asked.result, list(range(1, asked.result.last + 1))
    lines = []
    for system, colour in zip(asked.runs, colours(list(asked.runs.values())), strict=True):
        values = [hundredfold(asked.em(system, k - 1)) for k in steps]
        lines.append(Line(asked.label(system), steps, values, colour, marker="o"))
    rest = [name for name in result.systems if name not in asked.runs]
    for number, system in enumerate(rest):
        values = [100 * asked.em(system, k - 1).mean for k in steps]
        lines.append(Line(asked.label(system), steps, values, MUTED, dash=CONTROL_DASHES[number % len(CONTROL_DASHES)]))
    rows = [row for row in reported(result.world) if row.task_type == "overall" and row.system.startswith("LoopWM")]
    rows.sort(key=lambda row: row.step)
    if len(rows) > 1:
        lines.append(Line("LoopWM report", [row.step for row in rows], [row.em for row in rows], SERIES[5], dash="-."))
    ceiling = complement(headline_of(result.ceiling["unusual"]))
    ends = f"EM of the {asked.label(asked.leading)} run goes from {em(asked.em(asked.leading, 0))} at step 1"
    return Figure(
        f"steps-{asked.name}",
        "Exact matches, action by action",
        line_figure(
            f"steps-{asked.name}",
            lines,
            Axis("actions since the last observation that was read", ticks=tuple((k, str(k)) for k in steps)),
            Axis(f"EM in percent, {headline_name(result)}", limits=(0, None)),
            level=100 * ceiling.mean,
        ),
        f"{ends} to {em(asked.em(asked.leading))} at step {result.last}. Shaded: 95% intervals over episodes. "
        f"Grey: rules. Thin line: estimated ceiling at step {result.last}, {em(ceiling)}."
        + (f" The report's line is {INDICATIVE}." if len(rows) > 1 else ""),
        "a grey line above the coloured ones (rules that learn nothing do better), or a steep fall from left to right.",
    )


def _misses(asked: Asked) -> Figure:
    compared = [*asked.runs, *([asked.strongest_rules] if asked.strongest_rules else [])]
    shades = [*colours(list(asked.runs.values())), MUTED]
    bars = []
    for system, colour in zip(compared, shades, strict=False):
        found = [hundredfold(headline_of(asked.result.systems[system].misses[cause])) for cause in MISSES]
        bars.append(Line(asked.label(system), range(len(MISSES)), found, colour))
    groups = [cause.replace(" ", "\n") for cause in MISSES]
    n, last = asked.result.windows, asked.result.last
    return Figure(
        f"misses-{asked.name}",
        "Why answers are wrong",
        bar_figure(f"misses-{asked.name}", groups, bars, Axis(""), Axis(f"windows wrong at step {last}, percent")),
        f"Shares of all {n:,} windows, {headline_name(asked.result)}: the first cause that applies, from the left. "
        "What was not shown before cannot be known from this track.",
        "high points at 'another answer', a misunderstood action, and 'numbers', which rules continue along a line.",
    )


def _depth(name: str, found: Looping) -> Figure:
    loops = sorted(found.depth)
    values = [hundredfold(found.depth[T]) for T in loops]
    x = Axis("loops T in every step", log=True, ticks=tuple((T, str(T)) for T in loops))
    return Figure(
        f"depth-{name}",
        "What the loops buy",
        line_figure(f"depth-{name}", [Line("", loops, values, SERIES[0], marker="o")], x, Axis("EM in percent")),
        f"EM at the last step with T loops, n = {found.windows:,} windows; the run was trained around T = {found.mu}.",
        "a flat line (the loops are ignored), or one that falls on the right (overthinking).",
    )


def _kinds(name: str, found: Looping) -> Figure:
    kinds = [kind for kind in KINDS if kind in found.loops_by_kind]
    bars = [Line("", range(len(kinds)), [found.loops_by_kind[kind] for kind in kinds], SERIES[0])]
    shares = ", ".join(f"{kind} {found.shares[kind]:.0%}" for kind in kinds)
    return Figure(
        f"kinds-{name}",
        "Where loops are spent",
        bar_figure(f"kinds-{name}", kinds, bars, Axis("the text to be predicted"), Axis("loops of the last step")),
        f"With the exit {found.rule} at {found.chosen:g}. Copy: a text read before; number: the same but for its "
        f"numbers; change: anything else. Shares of the windows: {shares}.",
        "points at one height: the exit does not know what is hard.",
    )


def _latents(name: str, found: Looping) -> Figure:
    steps = list(range(1, len(found.latent) + 1))
    lines = [
        Line("in the latent", steps, [hundredfold(one) for one in found.latent], SERIES[0], marker="o"),
        Line("words, read again", steps, [hundredfold(one) for one in found.words], SERIES[3], dash="--", marker="s"),
    ]
    x = Axis("actions imagined", ticks=tuple((k, str(k)) for k in steps))
    return Figure(
        f"latents-{name}",
        "Imagining in latents or in words",
        line_figure(f"latents-{name}", lines, x, Axis("EM in percent")),
        "The latent goes on by itself and is decoded where asked, or every step is written and read as if it had "
        "happened. The same windows; paired differences are in the table.",
        "the dashed line above the other: the latent forgets what words would keep.",
    )


def _validation(run: TextRun, view: str) -> tuple[list[float], list[float]]:
    found = [(line["update"], line["validation"][view]) for line in run.log if view in line.get("validation", {})]
    found = [(update, value) for update, value in found if _number(value)]
    return [update for update, _ in found], [value for _, value in found]


def _number(value: object) -> bool:
    """Not missing, and not the word that stands for what is not finite."""
    return isinstance(value, int | float)

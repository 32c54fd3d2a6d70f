"""`loopwm report RUN ...` of text runs: one self-contained page for people, one JSON file for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loopwm.errors import UserError
from loopwm.evaluate.figures import Figure
from loopwm.evaluate.findings import Finding
from loopwm.evaluate.report import HTML, JSON, Report
from loopwm.evaluate.tables import Table
from loopwm.files import atomic_write, refuse_existing, write_json
from loopwm.text.benchmark.looping import Looping, Spread
from loopwm.text.benchmark.tables import INDICATIVE, headline_name, reported_json
from loopwm.text.benchmark.windows import find_track
from loopwm.text.report import figures, tables
from loopwm.text.report.findings import findings
from loopwm.text.report.runs import TextRun, describe, learned_text
from loopwm.text.report.stored import Asked, gather
from loopwm.text.report.worked import Worked, worked
from loopwm.train.checkpoint import NAME, read_checkpoint
from loopwm.train.journal import versions


@dataclass(frozen=True)
class LoopingPart:
    """What looping buys, on a track."""

    chosen: str
    time: str
    figures: list[Figure]
    tables: list[tuple[str, Table]]


@dataclass(frozen=True)
class Section:
    """All that the page says about a track; `folded` tables open when asked, `drawn` says where examples are from."""

    name: str
    track: str
    split: str
    shown: str
    windows: int
    episodes: int
    headline: str
    leading: str
    lines: list[Finding]
    figures: list[Figure]
    tables: list[tuple[str, Table]]
    folded: list[tuple[str, Table]]
    looping: LoopingPart | None
    examples: list[Worked]
    drawn: str


def all_text(runs: Sequence[Path]) -> bool:
    """Whether the runs learned text worlds.

    Raises:
        UserError: some have and some have not.
    """
    kinds = {Path(run): learned_text(run) for run in runs}
    if len(set(kinds.values())) > 1:
        for run in kinds:
            # Says so where there is no run at all.
            read_checkpoint(run / NAME, ())
        text, other = (next(run for run, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise UserError(f"{text} learned a text world and {other} did not; report on one kind of run at a time.")
    return any(kinds.values())


def write_text_report(runs: Sequence[Path], out: Path, command: str) -> Report:
    """Put together what is stored about text runs as OUT/report.html and OUT/report.json. Nothing is measured.

    The leading run, whom the lines are about, is the earliest looped one given.

    Args:
        runs: run folders with results of `loopwm evaluate RUN --benchmark`.
        out: folder to write to; may exist, but not hold a report.
        command: what to type to make this report again, printed in it.

    Raises:
        UserError: no run, a run that was not measured or has changed since, different worlds, or a report that exists.
    """
    out = Path(out)
    for name in (HTML, JSON):
        refuse_existing(out / name, "remove it or choose another folder")
    described = describe(runs)
    asked = gather(described)
    lines = findings(asked)
    page = render(described, asked, lines, command)
    # The JSON file comes last and marks the report as complete.
    with atomic_write(out / HTML) as aside:
        aside.write_text(page, encoding="utf-8")
    write_json(
        out / JSON,
        {
            "command": command,
            "versions": versions(),
            "findings": {name: [asdict(line) for line in found] for name, found in lines.items()},
            "runs": [asdict(run) for run in described],
            "tracks": {one.name: _track_json(one) for one in asked},
        },
    )
    return Report(out / HTML, out / JSON, tuple(lines[asked[0].name]))


def render(runs: Sequence[TextRun], asked: Sequence[Asked], lines: dict[str, list[Finding]], command: str) -> str:
    """The page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("loopwm.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("text.html.j2").render(
        world=asked[0].result.world,
        main=runs[0],
        runs=tables.runs(runs),
        sections=[section(one, lines[one.name]) for one in asked],
        training=figures.training_figures(runs),
        reported=bool(reported_json(asked[0].result.world)["rows"]),
        indicative=INDICATIVE,
        mixed=any(kind == "mix" for _, kind in tables.averages(asked[0])),
        provenance=tables.provenance(runs, asked, command, versions()),
        settings=tables.settings(runs),
    )


def section(asked: Asked, lines: list[Finding]) -> Section:
    """A track in figures, tables and examples."""
    result, last = asked.result, asked.result.last
    small = "Small print: 95% intervals."
    averaged = [
        [
            (f"Every metric at step {last}, in percent, {name}. {small}", tables.metrics(asked, kind)),
            *([(f"EM at every step, in percent, {name}. {small}", tables.steps(asked, kind))] if last > 1 else []),
        ]
        for name, kind in tables.averages(asked)
    ]
    again = tables.answers(asked)
    shown = [
        *averaged[0],
        (f"EM at step {last} by task type, in percent; the ceiling is an estimate. {small}", tables.types(asked)),
        *([(f"EM at step {last} by whether the action was answered before.", again)] if again.rows else []),
        (f"EM at step {last}, differences of rows to columns in points, paired by window.", tables.paired(asked)),
        (f"Wrong at step {last} by cause, in percent of all windows.", tables.misses(asked)),
        (f"Targets at step {last} that this track has not shown before, in percent.", tables.ceiling(asked)),
    ]
    examples = worked(asked)
    return Section(
        name=asked.name,
        track=asked.track,
        split=result.config.windows.split,
        shown=_shown(asked),
        windows=result.windows,
        episodes=sum(result.episodes.values()),
        headline=headline_name(result),
        leading=asked.label(asked.leading),
        lines=lines,
        figures=figures.track_figures(asked),
        tables=shown,
        folded=[table for group in averaged[1:] for table in group],
        looping=_looping(asked.name, asked.looping) if asked.looping is not None else None,
        examples=examples,
        drawn=_drawn(asked, len(examples)),
    )


def _shown(asked: Asked) -> str:
    """What the track is."""
    track = find_track(asked.track)
    seen = ["the task"]
    if track.initial:
        seen.append("the complete initial state")
    if track.memory is None:
        seen.append("everything since the beginning")
    elif track.memory:
        seen.append(f"at most {track.memory} transitions before the present observation")
    seen.append("the present observation")
    ahead = f"{track.steps} action{'s'[: track.steps != 1]}"
    return f"A system may read {', '.join(seen)}, and then {ahead}, whose answers it has to predict."


def _time(spread: Spread) -> str:
    return f"{spread[0]:.0f} ms [{spread[1]:.0f}, {spread[2]:.0f}]"


def _looping(name: str, found: Looping) -> LoopingPart:
    took = found.milliseconds
    answered = f", {_time(took.answered)} as the benchmark is answered" if took.answered else ""
    return LoopingPart(
        chosen=f"{found.chosen:g}",
        time=f"{_time(took.last)} to its last text, {_time(took.live)} where all before it was read already, "
        f"{_time(took.all)} to all of its texts, {_time(took.words)} when each is read before the next action"
        f"{answered}",
        figures=figures.looping_figures(name, found),
        tables=[
            (f"EM at the last step with T loops, and with the exit {found.rule}, n = {found.windows:,} windows.",
             tables.depth(found)),
            (f"Loops of the last step with the exit at {found.chosen:g}, by kind of text and by task type.",
             tables.spent(found)),
            ("EM in percent, imagined in the latent or with every step decoded and read again.",
             tables.deferred(found)),
        ],
    )  # fmt: skip


def _drawn(asked: Asked, count: int) -> str:
    kept = asked.result.examples
    if kept is None:
        return ""
    right = sum(one.answers[kept.leading].right[-1] for one in kept.windows)
    return (
        f"Drawn, not chosen (seed {kept.config.seed}): {right} of the {kept.right:,} windows that {kept.leading} "
        f"answers right at the last step, and {count - right} of the {kept.wrong:,} that it answers wrong. Texts are "
        f"cut at {kept.config.length:,} characters, white space is shown as single spaces in what is compared, "
        "and words that differ are underlined. More was read than the present observation, where the track shows more."
    )


def _track_json(asked: Asked) -> dict[str, Any]:
    return {
        "file": asked.path,
        "leading": asked.leading,
        "labels": {system: run.label for system, run in asked.runs.items()},
        "missing": [run.name for run in asked.missing],
        **asked.result.to_json(),
        "reported": reported_json(asked.result.world),
    }

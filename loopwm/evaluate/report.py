"""`loopwm report RUN ...`: one self-contained page for people, one JSON file for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwm.data.cache import open_memmap
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate import exit_section, figures, tables
from loopwm.evaluate.animation import Animation, Scene, animate, scene_of
from loopwm.evaluate.comparison import Comparison, compare
from loopwm.evaluate.config import SpeedConfig
from loopwm.evaluate.evaluation import Evaluation, plain, read_evaluation
from loopwm.evaluate.findings import Finding, findings
from loopwm.evaluate.guarantees import CertificateNote, calibration_figure, certificate_note
from loopwm.evaluate.segments import rollouts
from loopwm.files import atomic_write, refuse_existing, write_json
from loopwm.monitor.section import MonitorSection, monitor_section
from loopwm.train.checkpoint import load
from loopwm.train.journal import read_log, versions

HTML, JSON = "report.html", "report.json"
_ANIMATION_CANDIDATES = 100


@dataclass(frozen=True)
class Report:
    """What was written, and the five lines that matter."""

    html: Path
    json: Path
    lines: tuple[Finding, ...]


def write_report(
    runs: Sequence[Path], out: Path, command: str, speed: SpeedConfig | None = None, device: str = "auto"
) -> Report:
    """Compare evaluated runs and write OUT/report.html and OUT/report.json.

    The leading run, whose animation is shown and whom the five lines are about, is the earliest looped one given.

    Args:
        runs: evaluated run folders.
        out: folder to write to; may exist, but not hold a report.
        command: what to type to make this report again, printed in it.
        speed: how the interleaved speed comparison is measured. device: and where.

    Raises:
        UserError: no run, a run without evaluation, runs of different worlds, no such device, or a report that exists.
    """
    out = Path(out)
    for name in (HTML, JSON):
        refuse_existing(out / name, "remove it or choose another folder")
    runs = _leading(runs)
    evaluations = [read_evaluation(run) for run in runs]
    _check_same_world(evaluations)
    comparison = compare(runs, speed, device)
    lines = tuple(findings(evaluations, comparison))
    certificate, calibration = certificate_note(runs[0]), calibration_figure(runs[0])
    page = render(
        evaluations,
        comparison,
        lines,
        command,
        [read_log(run) for run in runs],
        typical_rollout(runs[0], evaluations[0]),
        certificate,
        calibration,
        monitor_section(runs[0]),
    )
    # The JSON file comes last and marks the report as complete.
    with atomic_write(out / HTML) as aside:
        aside.write_text(page, encoding="utf-8")
    write_json(
        out / JSON,
        {
            "command": command,
            "versions": versions(),
            "findings": plain(list(lines)),
            "certificate": plain(certificate),
            "comparison": plain(comparison),
            "evaluations": plain(evaluations),
        },
    )
    return Report(out / HTML, out / JSON, lines)


def typical_rollout(run: Path, evaluation: Evaluation) -> tuple[Animation, Scene] | None:
    """The animation of the leading run; None when its world cannot be drawn or its recording is gone or another."""
    if not Path(evaluation.run.data).is_file():
        return None
    with Store.open(evaluation.run.data) as store:
        if store.digest != evaluation.run.data_digest:
            return None
        scene = scene_of(evaluation.run.world, store.meta.observation)
        if scene is None:
            return None
        columns, episodes = open_memmap(store), store.split(evaluation.config.split)
    model, config = load(run), evaluation.config
    # The longest that was evaluated: episodes may be shorter than what was asked for, and a warm-up takes its part.
    warmup, horizon = config.watched(model.observation), len(evaluation.horizon[0].error)
    long_enough = episodes[columns.ep_len[episodes] >= horizon + warmup]
    if len(long_enough) == 0:
        return None
    segments = rollouts(
        columns,
        long_enough,
        horizon,
        stride=int(columns.ep_len.max()),
        rows=_ANIMATION_CANDIDATES,
        seed=config.seed,
        warmup=warmup,
    )
    exit, cap = exit_section.shown_exit(evaluation)
    animation = animate(model, segments, scene, exit, cap)
    return None if animation is None else (animation, scene)


def render(
    evaluations: list[Evaluation],
    comparison: Comparison,
    lines: Sequence[Finding],
    command: str,
    logs: Sequence[list[dict[str, Any]]],
    rollout: tuple[Animation, Scene] | None,
    certificate: CertificateNote | None = None,
    calibration: figures.Figure | None = None,
    monitor: MonitorSection | None = None,
) -> str:
    """The page as HTML. Nothing is measured here."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("loopwm.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = {
        "depth": [figures.depth_figure(evaluations, comparison), figures.gain_figure(evaluations)],
        "difficulty": figures.difficulty_figures(evaluations),
        "horizon": figures.horizon_figures(evaluations),
        "exits": [*exit_section.figures(evaluations[0]), calibration],
        "inside": [figures.settling_figure(evaluations), figures.stability_figure(evaluations)],
        "training": [figures.training_figure(evaluations, logs)],
    }
    return environment.get_template("report.html.j2").render(
        main=evaluations[0],
        lines=lines,
        figures={place: [figure for figure in group if figure is not None] for place, group in shown.items()},
        systems=tables.systems(evaluations, comparison),
        controls=tables.controls(evaluations[0]),
        depth=tables.depth(evaluations[0]),
        pictures=tables.pictures(evaluations[0]),
        ranks=tables.ranks(evaluations[0]),
        exits=exit_section.table(evaluations[0]),
        exit_sentences=exit_section.sentences(evaluations[0]),
        certificate=certificate,
        inside=tables.inside(evaluations),
        provenance=tables.provenance(evaluations, command, versions()),
        settings=tables.settings(evaluations),
        processor=comparison.processor,
        animation=rollout[0] if rollout else None,
        scene=rollout[1] if rollout else None,
        monitor=monitor,
    )


def _leading(runs: Sequence[Path]) -> list[Path]:
    """The runs, an evaluated looped one at the head."""
    if not runs:
        raise UserError("A report needs at least one evaluated run; give its folder.")
    folders = [Path(run) for run in runs]
    looped = next((run for run in folders if read_evaluation(run).run.loops > 1), folders[0])
    return [looped, *(run for run in folders if run != looped)]


def _check_same_world(evaluations: list[Evaluation]) -> None:
    worlds = sorted({evaluation.run.world for evaluation in evaluations})
    if len(worlds) > 1:
        raise UserError(f"The runs come from different worlds ({', '.join(worlds)}); report on one world at a time.")

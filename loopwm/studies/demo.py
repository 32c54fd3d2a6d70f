"""The main job, end to end: record, train three systems, evaluate, report."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from loopwm.errors import UserError
from loopwm.model.config import SYSTEMS
from loopwm.presets import Preset, preset
from loopwm.progress import TerminalProgress
from loopwm.studies.jobs import Job, train_all
from loopwm.studies.systems import pick_rates, with_system


@dataclass(frozen=True)
class DemoResult:
    """Where the report is, and the five lines that matter."""

    html: Path
    json: Path
    lines: tuple[str, ...]


def run_demo(name: str, out: Path) -> DemoResult:
    """Do all of it inside `out`; what an interrupted demo finished is not done again.

    Args:
        name: preset.
        out: folder for the recording, the runs and the report.

    Raises:
        UserError: unknown preset, or `out` already holds a report.
        LoopwmError: a step failed; Ctrl-C exits with code 130 after saving.
    """
    from loopwm.evaluate.report import HTML, JSON, write_report
    from loopwm.files import refuse_existing

    settings, out = preset(name), Path(out)
    refuse_existing(out / JSON, "remove the folder or choose another one with --out")
    # A page without its numbers is what a demo leaves that was cut off while writing them.
    (out / HTML).unlink(missing_ok=True)
    again = shlex.join(["loopwm", "demo", name, "--out", str(out)])
    data = record(settings, out / f"{settings.world}.h5")
    config = replace(settings.config, data=data)
    with TerminalProgress("choosing learning rates", "update") as progress:
        choices = pick_rates(config, out / "rates", settings.rates, settings.rate_updates, progress, again)
    jobs = [Job(out / system, with_system(config, system, choices[system].rate)) for system in SYSTEMS]
    with TerminalProgress("training", "update") as progress:
        train_all(jobs, progress, again=again)
    for job in jobs:
        evaluate_once(job.run, settings)
    report = write_report([job.run for job in jobs], out, again, settings.evaluation.speed)
    return DemoResult(report.html, report.json, tuple(line.text for line in report.lines))


def record(settings: Preset, path: Path, seed: int = 0) -> Path:
    """The recording at `path`, made with `seed` if it is not there.

    Raises:
        UserError: another recording is there.
    """
    from loopwm.data.collect import collect
    from loopwm.data.config import CollectConfig
    from loopwm.data.store import Store

    if path.exists():
        with Store.open(path) as store:
            if store.num_episodes != settings.episodes:
                raise UserError(
                    f"{path} holds {store.num_episodes} episodes instead of {settings.episodes}; remove it or choose "
                    "another folder."
                )
            if store.meta.seed != seed:
                raise UserError(
                    f"{path} was recorded with seed {store.meta.seed} instead of {seed}; choose another folder."
                )
    else:
        with TerminalProgress("recording", "episode") as progress:
            collect(CollectConfig(settings.world, settings.episodes, seed=seed), path, progress.advance)
    return path


def evaluate_once(run: Path, settings: Preset) -> None:
    """Evaluate a run unless just that was done; an evaluation of other settings is replaced."""
    from loopwm.evaluate.evaluation import evaluate

    with TerminalProgress(f"evaluating {run.name}", "stage") as progress:
        evaluate(run, config=settings.evaluation, progress=progress, existing="reuse")

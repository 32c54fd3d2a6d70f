"""What `loopwm evaluate RUN --benchmark` stored beside the runs, read back and put together."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Interval
from loopwm.text.benchmark.aggregate import REPORT_MIX
from loopwm.text.benchmark.benchmark import BenchmarkResult, SystemResult, headline_of
from loopwm.text.benchmark.examples import Examples
from loopwm.text.benchmark.looping import Looping
from loopwm.text.benchmark.rules import SYSTEMS
from loopwm.text.benchmark.windows import TRACKS
from loopwm.text.report.runs import TextRun

HEADLINE = "history"
"""The track that a report leads with, where it was asked."""


@dataclass(frozen=True)
class MeasuredRun:
    """Which weights were measured."""

    checkpoint: str
    updates: int


@dataclass(frozen=True)
class StoredBenchmark(BenchmarkResult):
    """A result with what stands beside it in the file.

    Attributes:
        recordings: file -> digest. runs: system -> which weights; empty in files of earlier versions.
        command: what measured it. versions: with which programs.
        looping: what looping buys, where that was measured.
        examples: drawn windows with answers, where they were kept.
    """

    recordings: dict[str, str] = field(default_factory=dict)
    runs: dict[str, MeasuredRun] = field(default_factory=dict)
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    looping: Looping | None = None
    examples: Examples | None = None


@dataclass(frozen=True)
class Asked:
    """One track, and who answered.

    Attributes:
        path: the file of the leading run.
        result: with what other runs stored about the same windows.
        runs: system of `result` -> run; the leading one first.
        missing: runs of the report that have not been asked about these windows.
    """

    path: str
    result: StoredBenchmark
    runs: dict[str, TextRun]
    missing: tuple[TextRun, ...]

    @property
    def name(self) -> str:
        """Of the file, which says track and split unless somebody renamed it."""
        return Path(self.path).stem.removeprefix("benchmark-")

    @property
    def track(self) -> str:
        """What was shown."""
        return self.result.config.windows.track

    @property
    def systems(self) -> dict[str, SystemResult]:
        """The runs, and then all others that answered."""
        found = self.result.systems
        return {name: found[name] for name in dict.fromkeys((*self.runs, *found))}

    @property
    def leading(self) -> str:
        """The system that the lines are about."""
        return next(iter(self.runs))

    @property
    def looping(self) -> Looping | None:
        """What looping buys the leading run; None where it was measured of another run, or not at all."""
        measured = next(iter(self.result.runs), self.leading)
        return self.result.looping if measured == self.leading else None

    @property
    def strongest_rules(self) -> str | None:
        """The rules with the highest EM at the last step; None where no rules were asked."""
        rules = [name for name in self.result.systems if name in SYSTEMS]
        return max(rules, key=lambda name: self.em(name).mean, default=None)

    def label(self, system: str) -> str:
        """What a system is called on the page."""
        if system in self.runs:
            return self.runs[system].label
        return system if system in SYSTEMS else f"{system} (not of this report)"

    def em(self, system: str, step: int = -1) -> Interval:
        """The headline EM."""
        return headline_of(self.result.systems[system].steps[step]["em"])


def gather(runs: Sequence[TextRun]) -> list[Asked]:
    """Every track on which the leading run was measured, the headline first.

    Raises:
        UserError: nothing is stored, a file cannot be read, the weights have changed since, or worlds differ.
    """
    stored = {run.name: read_benchmarks(run) for run in runs}
    head = runs[0]
    chosen = dict(stored[head.name])
    for run in runs[1:]:
        # Who was measured together with another run stands in the file of that one.
        known = {path.name for path in chosen}
        for path, result in stored[run.name].items():
            if path.name not in known and _system_of(result, head) is not None:
                chosen[path] = result
    if not chosen:
        raise UserError(f"{head.folder} has not been measured{_remedy(runs)}")
    worlds = sorted({one.world for found in stored.values() for one in found.values()})
    if len(worlds) > 1:
        raise UserError(f"The runs come from different worlds ({', '.join(worlds)}); report on one world at a time.")
    asked = [_asked(path, result, runs, stored) for path, result in chosen.items()]
    order = [HEADLINE, *(name for name in TRACKS if name != HEADLINE)]
    return sorted(asked, key=lambda one: (order.index(one.track), one.name))


def read_benchmarks(run: TextRun) -> dict[Path, StoredBenchmark]:
    """The stored results of a run, by file.

    Raises:
        UserError: a file is damaged, or of another version.
    """
    found = {}
    for path in sorted(Path(run.folder).glob("benchmark-*.json")):
        try:
            found[path] = TypeAdapter(StoredBenchmark).validate_python(json.loads(path.read_text()))
        except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} is not a result of the text benchmark that this loopwm reads; remove it, or measure again "
                f"with --overwrite: loopwm evaluate {shlex.quote(run.folder)} --benchmark WORLD"
            ) from error
    return found


def _asked(
    path: Path, result: StoredBenchmark, runs: Sequence[TextRun], stored: dict[str, dict[Path, StoredBenchmark]]
) -> Asked:
    head, who, missing = runs[0], {}, []
    own = _system_of(result, head)
    if own is None:
        again = f"{result.command or 'loopwm evaluate ' + shlex.quote(head.folder) + ' --benchmark ' + result.world}"
        raise UserError(
            f"{path} was not measured with the weights that {head.folder} has now; measure again with: "
            f"{again} --overwrite"
        )
    who[own] = head
    for run in runs[1:]:
        system = _system_of(result, run)
        if system is None and (other := _elsewhere(result, run, stored[run.name])) is not None:
            system, result = run.name, replace(result, systems={**result.systems, run.name: other})
        if system is None:
            missing.append(run)
        else:
            who[system] = run
    return Asked(str(path), result, who, tuple(missing))


def _system_of(result: StoredBenchmark, run: TextRun) -> str | None:
    """Under which name the weights of a run were measured; None where they were not."""
    if not result.runs:
        return run.name if run.name in result.systems and run.name not in SYSTEMS else None
    same = [name for name, one in result.runs.items() if one.checkpoint == run.checkpoint]
    return run.name if run.name in same else next(iter(same), None)


def _elsewhere(result: StoredBenchmark, run: TextRun, own: dict[Path, StoredBenchmark]) -> SystemResult | None:
    """The figures of a run that was measured by itself on the same windows."""
    for other in own.values():
        system = _system_of(other, run) if other.digest == result.digest else None
        if system is not None and run.name not in result.systems:
            return other.systems[system]
    return None


def _remedy(runs: Sequence[TextRun]) -> str:
    """How to measure runs that were not."""
    head = runs[0]
    world = head.recording.world if head.recording is not None else None
    if world is not None and world not in REPORT_MIX:
        return f", and there is no benchmark of {world}, so there is nothing to report on yet."
    words = ["loopwm", "evaluate", head.folder, "--benchmark", world or "scienceworld"]
    words += ["--track", HEADLINE] + (["--looping"] if head.loops > 1 else [])
    others = [run.folder for run in runs[1:]]
    return f"; measure it with: {shlex.join([*words, *(['--against', *others] if others else [])])}"

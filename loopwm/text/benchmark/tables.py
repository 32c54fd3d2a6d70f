"""The benchmark's result as text: one table per question, the report's own figures marked for what they are."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loopwm.evaluate.bootstrap import Interval
from loopwm.text.benchmark.aggregate import Aggregate
from loopwm.text.benchmark.benchmark import BenchmarkResult, headline_of
from loopwm.text.benchmark.ceiling import CAUSES
from loopwm.text.benchmark.errors import ANSWERS, MISSES
from loopwm.text.benchmark.metrics import METRICS

INDICATIVE = "indicative: protocol not published"
HEADS = {
    "em": "EM",
    "em_unordered": "EM, lists sorted",
    "token_f1": "token F1",
    "bleu4": "BLEU-4",
    "bleu4_plain": "BLEU-4, plain",
    "entity_f1": "entity F1",
    "entity_recall": "entity recall",
}
REPORT_WORLD = {"scienceworld": "ScienceWorld", "alfworld": "ALFWorld"}


@dataclass(frozen=True)
class Reported:
    """A row of the LoopWM report's tables, in percent; which BLEU-4 and what Entity is, it does not say."""

    system: str
    task_type: str
    step: int
    em: float
    token_f1: float
    bleu4: float
    entity: float


def reported(world: str) -> list[Reported]:
    """The report's figures on a world."""
    text = (files("loopwm.text.benchmark") / "reported.csv").read_text(encoding="utf-8")
    return [
        Reported(
            system=row["system"],
            task_type=row["task_type"],
            step=int(row["step"]),
            em=float(row["em"]),
            token_f1=float(row["token_f1"]),
            bleu4=float(row["bleu4"]),
            entity=float(row["entity"]),
        )
        for row in csv.DictReader(text.splitlines())
        if row["benchmark"] == REPORT_WORLD.get(world)
    ]


def reported_json(world: str) -> dict[str, Any]:
    """The same, marked."""
    return {"note": INDICATIVE, "rows": [asdict(row) for row in reported(world)]}


def tables(result: BenchmarkResult) -> RenderableType:
    """Everything a reader of the terminal wants, in order."""
    windows = result.config.windows
    lines = [
        f"{result.world}, track {windows.track}, split {windows.split}: {result.windows} windows of "
        f"{sum(result.episodes.values())} episodes; percent, 95% intervals over episodes"
    ]
    parts: list[RenderableType] = [Text(lines[0]), _systems(result)]
    if result.last > 1:
        parts.append(_steps(result))
    parts += [_types(result), _answers(result), _ceiling(result), _misses(result)]
    if len(result.systems) > 1:
        parts.append(_paired(result))
    return Group(*parts)


def _systems(result: BenchmarkResult) -> Table:
    table = Table("system", "mean over", *HEADS.values(), title=f"step {result.last}", title_justify="left")
    for name, system in result.systems.items():
        averages = system.steps[-1]
        for label, of in _averages(averages["em"]):
            cells = [_percent(_pick(averages[metric], of), interval=metric.startswith("em")) for metric in METRICS]
            table.add_row(
                name if of == "mix" or (label == "task types" and averages["em"].mix is None) else "", label, *cells
            )
    for row in reported(result.world):
        if row.task_type == "overall" and row.step == result.last:
            cells = (row.em, "", row.token_f1, row.bleu4, "", row.entity, "")
            table.add_row(row.system, INDICATIVE, *map(str, cells), style="dim")
    return table


def _steps(result: BenchmarkResult) -> Table:
    heads = [f"step {number}" for number in range(1, result.last + 1)]
    table = Table("system", *heads, title=f"EM by step, {headline_name(result)}", title_justify="left")
    for name, system in result.systems.items():
        table.add_row(name, *(_percent(headline_of(averages["em"])) for averages in system.steps))
    for name in sorted({row.system for row in reported(result.world)}):
        found = {
            row.step: row.em for row in reported(result.world) if row.system == name and row.task_type == "overall"
        }
        if len(found) > 1:
            cells = [str(found.get(number, "")) for number in range(1, result.last + 1)]
            table.add_row(f"{name} ({INDICATIVE})", *cells, style="dim")
    return table


def _types(result: BenchmarkResult) -> Table:
    says = {
        row.task_type: str(row.em)
        for row in reported(result.world)
        if row.system.startswith("LoopWM") and row.step == result.last
    }
    heads = (*result.systems, f"LoopWM report ({INDICATIVE})", "ceiling", "windows", "episodes")
    table = Table("task type", *heads, title=f"EM at step {result.last} by task type", title_justify="left")
    for kind, count in result.types.items():
        cells = [_percent(system.steps[-1]["em"].by_type[kind]) for system in result.systems.values()]
        ceiling = f"{100 * (1 - result.ceiling['unusual'].by_type[kind].mean):.1f}"
        table.add_row(kind, *cells, says.get(kind, ""), ceiling, str(count), str(result.episodes[kind]))
    return table


def _ceiling(result: BenchmarkResult) -> Table:
    title = f"targets at step {result.last} that this track has not shown before, {headline_name(result)}"
    table = Table("what", "share", "of them unusual", "of them novel", title=title, title_justify="left")
    for cause in CAUSES:
        table.add_row(
            cause, *(_percent(headline_of(result.ceiling[f"{prefix}{cause}"])) for prefix in ("", "unusual ", "novel "))
        )
    unusual, novel = (headline_of(result.ceiling[name]) for name in ("unusual", "novel"))
    table.add_row("ceiling: 100 less these", "", _percent(complement(unusual)), _percent(complement(novel)))
    if result.replay is not None:
        noise = _percent(headline_of(result.replay.differs))
        table.add_row("replay noise of all steps, beside that", noise, "", "")
    return table


def _answers(result: BenchmarkResult) -> Table:
    title = f"EM at step {result.last}, by whether the action was answered before"
    table = Table("system", *ANSWERS, title=title, title_justify="left")
    for name, system in result.systems.items():
        found = system.by_answer
        table.add_row(
            name, *(f"{_percent(found[one])}, n = {found[one].n}" if one in found else "-" for one in ANSWERS)
        )
    return table


def _misses(result: BenchmarkResult) -> Table:
    title = f"wrong at step {result.last}, by cause, {headline_name(result)}"
    table = Table("system", *MISSES, title=title, title_justify="left")
    for name, system in result.systems.items():
        table.add_row(name, *(_percent(headline_of(system.misses[cause])) for cause in MISSES))
    return table


def _paired(result: BenchmarkResult) -> Table:
    title = f"EM at step {result.last}, paired differences of rows to columns in points, {headline_name(result)}"
    table = Table("system", *result.systems, title=title, title_justify="left")
    for name, system in result.systems.items():
        cells = [
            _percent(headline_of(system.against[other]), sign=True) if other in system.against else ""
            for other in result.systems
        ]
        table.add_row(name, *cells)
    return table


def _averages(of: Aggregate) -> Iterator[tuple[str, str]]:
    if of.mix is not None:
        yield "report's mix", "mix"
    yield "task types", "macro"
    yield "windows", "micro"


def _pick(aggregate: Aggregate, name: str) -> Interval:
    return {"mix": aggregate.mix or aggregate.macro, "macro": aggregate.macro, "micro": aggregate.micro}[name]


def headline_name(result: BenchmarkResult) -> str:
    """Which average `headline_of` is."""
    one = next(iter(result.ceiling.values()))
    return "report's mix" if one.mix is not None else "mean over task types"


def complement(one: Interval) -> Interval:
    """Of a share, the rest."""
    return Interval(1 - one.mean, 1 - one.high, 1 - one.low, one.n, one.episodes)


def _percent(one: Interval, *, interval: bool = True, sign: bool = False) -> str:
    form = "+.1f" if sign else ".1f"
    mean, low, high = (format(100 * value, form) for value in (one.mean, one.low, one.high))
    return f"{mean} [{low}, {high}]" if interval else mean

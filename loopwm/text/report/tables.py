"""The tables of the report of text runs: every cell already as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.tables import Cell, Table, flattened
from loopwm.text.benchmark.aggregate import Aggregate
from loopwm.text.benchmark.benchmark import headline_of
from loopwm.text.benchmark.ceiling import CAUSES
from loopwm.text.benchmark.errors import ANSWERS, MISSES
from loopwm.text.benchmark.looping import KINDS, Looping
from loopwm.text.benchmark.metrics import METRICS
from loopwm.text.benchmark.tables import HEADS, INDICATIVE, complement, reported
from loopwm.text.report.runs import TextRun
from loopwm.text.report.stored import Asked
from loopwm.train.journal import most_memory

AVERAGES = {"report's mix": "mix", "mean over task types": "macro", "mean over windows": "micro"}
"""Name -> field of `Aggregate`. The headline is the first that a world has."""


def runs(described: Sequence[TextRun]) -> Table:
    """What each run is; one column per run."""

    def row(name: str, cell: Callable[[TextRun], Cell]) -> tuple[str, tuple[Cell, ...]]:
        return name, tuple(cell(run) for run in described)

    def last(run: TextRun, view: str) -> Cell:
        found = [line["validation"] for line in run.log if "validation" in line]
        return Cell(f"{found[-1][view]:.4f}") if found and isinstance(found[-1].get(view), float) else Cell("-")

    def trained(run: TextRun) -> Cell:
        return Cell(f"{run.updates:,}", "" if run.updates == run.planned else f"of {run.planned:,} planned")

    def memory(run: TextRun) -> Cell:
        most = most_memory(run.log)
        return Cell("-" if most is None else f"{most:.1f} GiB")

    def settled(run: TextRun) -> Cell:
        return Cell(run.device or "-", run.precision)

    rows = (
        row("Run", lambda run: Cell(run.name)),
        row("Parameters", lambda run: Cell(f"{run.parameters:,}")),
        row("MFLOPs per step of the latent", lambda run: Cell(f"{run.flops / 1e6:.2f}", f"T = {run.loops}")),
        row("Vocabulary", lambda run: Cell(f"{run.words:,}")),
        row("Updates", trained),
        row("Hours of training", lambda run: Cell(f"{run.hours:.2f}")),
        row("Memory of training, at most", memory),
        row("Trained on", settled),
        row("Learning rate, seed", lambda run: Cell(f"{run.learning_rate:g}, {run.seed}")),
        row("Loss of a word, all seen", lambda run: last(run, "one_step")),
        row("Loss of a word, the first seen", lambda run: last(run, "open_loop")),
        row("Sure texts, all seen", lambda run: last(run, "one_step_sure")),
        row("Sure texts, the first seen", lambda run: last(run, "open_loop_sure")),
    )
    return Table(tuple(run.label for run in described), rows)


def metrics(asked: Asked, kind: str) -> Table:
    """Every metric at the last step, by one average, and the report's own figures."""
    rows = [
        (asked.label(system), tuple(percent(pick(found.steps[-1][metric], kind)) for metric in METRICS))
        for system, found in asked.systems.items()
    ]
    for row in reported(asked.result.world):
        if row.task_type == "overall" and row.step == asked.result.last:
            known = {"em": row.em, "token_f1": row.token_f1, "bleu4": row.bleu4, "entity_f1": row.entity}
            cells = (Cell(f"{known[name]:.1f}") if name in known else Cell("-") for name in METRICS)
            rows.append((reported_name(row.system), tuple(cells)))
    return Table(tuple(HEADS[metric] for metric in METRICS), tuple(rows))


def steps(asked: Asked, kind: str) -> Table:
    """EM at every step, by one average."""
    last = asked.result.last
    rows = [
        (asked.label(system), tuple(percent(pick(one["em"], kind)) for one in found.steps))
        for system, found in asked.systems.items()
    ]
    overall = [row for row in reported(asked.result.world) if row.task_type == "overall"]
    for system in dict.fromkeys(row.system for row in overall):
        known = {row.step: row.em for row in overall if row.system == system}
        cells = (Cell(f"{known[k]:.1f}") if k in known else Cell("-") for k in range(1, last + 1))
        rows.append((reported_name(system), tuple(cells)))
    return Table(tuple(f"step {k}" for k in range(1, last + 1)), tuple(rows))


def reported_name(system: str) -> str:
    """A system of the LoopWM report, and what its figures are worth."""
    return f"LoopWM report: {system} ({INDICATIVE})"


def types(asked: Asked) -> Table:
    """EM at the last step by task type."""
    result = asked.result
    says = {
        row.task_type: row.em
        for row in reported(result.world)
        if row.system.startswith("LoopWM") and row.step == result.last
    }
    rows = []
    for kind, count in result.types.items():
        cells = [percent(found.steps[-1]["em"].by_type[kind]) for found in asked.systems.values()]
        cells.append(percent(complement(result.ceiling["unusual"].by_type[kind])))
        if says:
            cells.append(Cell(f"{says[kind]:.1f}") if kind in says else Cell("-"))
        rows.append((kind, (*cells, Cell(str(count), f"{result.episodes[kind]} episodes"))))
    report = (f"LoopWM report ({INDICATIVE})",) if says else ()
    return Table((*map(asked.label, asked.systems), "ceiling", *report, "windows"), tuple(rows))


def ceiling(asked: Asked) -> Table:
    """What was not shown before."""
    found = {name: headline_of(one) for name, one in asked.result.ceiling.items()}
    rows = [(cause, tuple(percent(found[f"{kind}{cause}"]) for kind in ("", "unusual ", "novel "))) for cause in CAUSES]
    whole = (Cell(""), percent(complement(found["unusual"])), percent(complement(found["novel"])))
    return Table(("share", "of them unusual", "of them novel"), (*rows, ("ceiling: 100 less these", whole)))


def misses(asked: Asked) -> Table:
    """Wrong answers by cause, every system."""
    rows = tuple(
        (asked.label(system), tuple(percent(headline_of(found.misses[cause])) for cause in MISSES))
        for system, found in asked.systems.items()
    )
    return Table(MISSES, rows)


def answers(asked: Asked) -> Table:
    """EM by whether the action was answered before, and how; without rows where that was not measured."""
    known = {system: found.by_answer for system, found in asked.systems.items() if found.by_answer}
    there = [one for one in ANSWERS if any(one in found for found in known.values())]
    rows = [
        (asked.label(system), tuple(percent(found[one]) if one in found else Cell("-") for one in there))
        for system, found in known.items()
    ]
    counts = next(iter(known.values()), {})
    windows = ("windows", tuple(Cell(str(counts[one].n)) if one in counts else Cell("-") for one in there))
    return Table(tuple(there), (*rows, windows) if rows else ())


def paired(asked: Asked) -> Table:
    """Differences of EM, rows less columns."""
    systems = asked.systems
    rows = tuple(
        (
            asked.label(name),
            tuple(percent(headline_of(one.against[o]), sign=True) if o in one.against else Cell("") for o in systems),
        )
        for name, one in systems.items()
    )
    return Table(tuple(asked.label(name) for name in systems), rows)


def depth(found: Looping) -> Table:
    """EM at T, and with every exit."""
    rows = [
        (f"T = {loops}" + (" (mu)" if loops == found.mu else ""), (percent(em), Cell(""), Cell(str(loops))))
        for loops, em in sorted(found.depth.items())
    ]
    rows += [
        (
            f"exit at {one.threshold:g}" + (" (chosen)" if one.threshold == found.chosen else ""),
            (percent(one.em), percent(one.cost, sign=True), Cell(f"{one.loops:.2f}")),
        )
        for one in found.early
    ]
    return Table(("EM", f"less EM at T = {found.mu}, paired", "loops"), tuple(rows))


def spent(found: Looping) -> Table:
    """Loops of the last step with the chosen exit, by kind of text and by task type."""
    kinds = {kind: found.loops_by_kind[kind] for kind in KINDS if kind in found.loops_by_kind}
    rows = tuple(
        (name, (Cell(f"{one.mean:.2f}", f"{one.low:.2f}\u2013{one.high:.2f}"), Cell(str(one.n))))
        for name, one in [*kinds.items(), *found.loops_by_type.items()]
    )
    return Table(("loops", "windows"), rows)


def deferred(found: Looping) -> Table:
    """Latents against words at every step."""
    rows = tuple(
        (f"step {k + 1}", (percent(a), percent(b), percent(c, sign=True)))
        for k, (a, b, c) in enumerate(zip(found.latent, found.words, found.difference, strict=True))
    )
    return Table(("in the latent", "words, read again", "difference, paired"), rows)


def provenance(described: Sequence[TextRun], asked: Sequence[Asked], command: str, now: dict[str, str]) -> Table:
    """Where the numbers come from, and what to type to have them again."""
    head = described[0]
    rows = [("This page", command), ("World", asked[0].result.world)]
    for data, digest in dict.fromkeys((run.data, run.data_digest) for run in described):
        rows.append(("Learned from", f"{data}, digest {digest}"))
    if head.recording is not None:
        rows.append(("Recorded with", head.recording.command))
        rows.append(("Recorded by", _versions(head.recording.versions)))
    for run in described:
        rows.append((f"Trained again: {run.label}", run.trained_with))
    if head.versions:
        rows.append(("Trained by", _versions(head.versions)))
    for one in asked:
        recordings = ", ".join(f"{name} {digest}" for name, digest in one.result.recordings.items())
        rows.append((f"Measured: {one.name}", one.result.command or "not noted"))
        rows.append((f"Windows: {one.name}", f"digest {one.result.digest}; of {recordings or 'not noted'}"))
        config = one.result.config
        told = f"windows {config.windows.seed}, bootstrap {config.seed}; {config.resamples} resamples of episodes"
        rows.append((f"Seeds: {one.name}", told))
    measured = {_versions(one.result.versions) for one in asked if one.result.versions}
    rows += [("Measured by", text) for text in sorted(measured)]
    rows.append(("Page by", _versions(now)))
    return Table((), tuple((name, (Cell(text),)) for name, text in rows))


def settings(described: Sequence[TextRun]) -> Table:
    """Every option of every run."""
    columns = [dict(flattened(run.config)) for run in described]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = tuple((name, tuple(Cell(column.get(name, "")) for column in columns)) for name in names)
    return Table(tuple(run.label for run in described), rows)


def averages(asked: Asked) -> list[tuple[str, str]]:
    """Name and field of those that the world has."""
    has_mix = next(iter(asked.result.ceiling.values())).mix is not None
    return [(name, kind) for name, kind in AVERAGES.items() if has_mix or kind != "mix"]


def pick(aggregate: Aggregate, kind: str) -> Interval:
    """One average."""
    return {"mix": aggregate.mix or aggregate.macro, "macro": aggregate.macro, "micro": aggregate.micro}[kind]


def percent(one: Interval, *, sign: bool = False) -> Cell:
    """A share or a difference of shares in percent, its interval below."""
    form = "+.1f" if sign else ".1f"
    mean, low, high = (format(100 * value, form) for value in (one.mean, one.low, one.high))
    return Cell(mean, f"{low} to {high}" if sign else f"{low}\u2013{high}")


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items()) or "not noted"

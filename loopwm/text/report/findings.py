"""What the numbers of a text run say, in words. A difference whose interval contains none is called no clear one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.findings import Finding, Verdict, percent
from loopwm.text.benchmark.benchmark import headline_of
from loopwm.text.benchmark.errors import MISSES
from loopwm.text.benchmark.looping import KINDS, Looping
from loopwm.text.benchmark.tables import INDICATIVE, complement, headline_name, reported
from loopwm.text.report.runs import TextRun
from loopwm.text.report.stored import Asked


def findings(asked: Sequence[Asked]) -> dict[str, list[Finding]]:
    """The lines of every track, by its name."""
    return {one.name: track_findings(one) for one in asked}


def track_findings(asked: Asked) -> list[Finding]:
    """Against rules and other runs, against what can be known, what looping buys, and where it fails."""
    systems = [name for name in asked.runs if name != asked.leading]
    rules = asked.strongest_rules
    lines = [against_rules(asked, rules) if rules else level(asked)]
    lines += [against_run(asked, name) for name in systems]
    lines += [_not_asked(asked, run) for run in asked.missing]
    lines += [against_ceiling(asked), *against_report(asked)]
    if asked.looping is not None:
        lines += looping_findings(asked.looping)
    return [*lines, failures(asked)]


def subject(run: TextRun) -> str:
    """How a sentence about a run begins."""
    return "The looped model" if run.label == "looped" else f"The {run.label}"


def level(asked: Asked) -> Finding:
    """The EM by itself."""
    return Finding("unknown", f"{_headline(asked)}; no rules were measured beside it, so this says little by itself.")


def against_rules(asked: Asked, rules: str) -> Finding:
    """The EM, and the strongest rules."""
    lead = headline_of(asked.result.systems[asked.leading].against[rules])
    says = compared(lead, f"the strongest rules ({rules}, {em(asked.em(rules))})")
    return Finding(verdict_of(lead), f"{_headline(asked)}: {says}.")


def against_run(asked: Asked, system: str) -> Finding:
    """Another run on the same windows; paired where both were measured together."""
    head, other = asked.runs[asked.leading], asked.runs[system]
    size = f"{percent(head.parameters / other.parameters)} of its parameters"
    flops = f"{percent(head.flops / other.flops)} of its operations in a step"
    ours, theirs = asked.em(asked.leading), asked.em(system)
    ends = f"EM {em(ours)} against {em(theirs)}, with {size} and {flops}"
    if head.updates != other.updates:
        ends += f", and after {head.updates:,} updates against {other.updates:,}, which is NOT the same training"
    elif head.data_digest != other.data_digest:
        ends += ", and after training on ANOTHER recording"
    differences = asked.result.systems[asked.leading].against
    if system in differences:
        lead = headline_of(differences[system])
        says = compared(lead, f"the {other.label}")
        return Finding(verdict_of(lead), f"{subject(head)} is {says}: {ends}.")
    verdict = apart(ours, theirs)
    says = {"better": f"better than the {other.label}", "worse": f"worse than the {other.label}"}.get(
        verdict, f"not clearly different from the {other.label}"
    )
    return Finding(
        verdict, f"{subject(head)} is {says}, by intervals that are not paired, as the two were not measured together: "
        f"{ends}."
    )  # fmt: skip


def against_ceiling(asked: Asked) -> Finding:
    """What knowing all that was shown would reach."""
    ours, ceiling = asked.em(asked.leading), complement(headline_of(asked.result.ceiling["unusual"]))
    gap, verdict = 100 * (ours.mean - ceiling.mean), apart(ours, ceiling)
    where = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
    says = {
        "better": f"{where} the estimated ceiling of {em(ceiling)}, by guessing what was not shown",
        "worse": f"{where} the estimated ceiling of {em(ceiling)}",
    }.get(verdict, f"not clearly apart from the estimated ceiling of {em(ceiling)}")
    return Finding(verdict, f"EM {ours.mean:.1%} is {says}, which is what knowing everything shown would reach.")


def against_report(asked: Asked) -> list[Finding]:
    """The figures of the LoopWM report, for what they are."""
    rows = [row for row in reported(asked.result.world) if row.task_type == "overall" and row.step == asked.result.last]
    said = ", ".join(f"{row.em:.1f}% for {row.system}" for row in rows)
    if not rows or asked.result.last == 1:
        return []
    return [
        Finding(
            "unknown",
            f"The LoopWM report gives EM {said} ({INDICATIVE}); {100 * asked.em(asked.leading).mean:.1f}% being above "
            "or below these proves nothing.",
        )
    ]


def looping_findings(found: Looping) -> list[Finding]:
    """More loops, fewer loops, loops where they are needed, and latents instead of words."""
    return [_depth(found), _early(found), _needed(found), _deferred(found)]


def failures(asked: Asked) -> Finding:
    """Which errors there are, and where."""
    system = asked.result.systems[asked.leading]
    causes = {cause: headline_of(system.misses[cause]).mean for cause in MISSES}
    wrong = sum(causes.values())
    if wrong == 0:
        return Finding("better", f"Not one of the {asked.result.windows} answers at the last step is wrong.")
    told = ", ".join(
        f"{cause} {value:.1%}" for cause, value in sorted(causes.items(), key=lambda one: -one[1]) if value
    )
    types = system.steps[-1]["em"].by_type
    worst = min(types, key=lambda name: types[name].mean)
    where = f"; the worst task type is {worst} with EM {em(types[worst])}, n = {types[worst].n}"
    return Finding("fails", f"Where it fails: {wrong:.1%} are wrong ({told}){where if len(types) > 1 else ''}.")


def compared(lead: Interval, other: str) -> str:
    """A paired difference of EM, in points, with a direction only where there is one."""
    verdict, sign = verdict_of(lead), -1 if lead.mean < 0 else 1
    low, high = sorted((sign * lead.low, sign * lead.high))
    by = f"by {100 * sign * lead.mean:.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
    if verdict == "tie":
        return f"not clearly different from {other} ({points(lead)})"
    return f"{verdict} than {other} {by}"


def points(difference: Interval) -> str:
    """A difference of shares."""
    return f"{100 * difference.mean:+.1f} points [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def em(value: Interval) -> str:
    """A share with its interval."""
    return f"{100 * value.mean:.1f}% [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def verdict_of(difference: Interval) -> Verdict:
    """Of a paired difference, more being better."""
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "tie"


def apart(ours: Interval, theirs: Interval) -> Verdict:
    """Of two intervals that are not paired."""
    return "better" if ours.low > theirs.high else "worse" if ours.high < theirs.low else "tie"


def _headline(asked: Asked) -> str:
    ours, last = asked.em(asked.leading), asked.result.last
    ahead = f"{last} action{'s'[: last != 1]} ahead"
    return (
        f"{subject(asked.runs[asked.leading])}, track {asked.track}, {ahead}: EM {em(ours)} "
        f"({headline_name(asked.result)}, n = {ours.n} windows of {ours.episodes} episodes)"
    )


def _not_asked(asked: Asked, run: TextRun) -> Finding:
    windows, head = asked.result.config.windows, asked.runs[asked.leading]
    words = ["loopwm", "evaluate", head.folder, "--benchmark", asked.result.world, "--track", windows.track]
    words += ["--split", windows.split, "--per-type", str(windows.per_type), "--seed", str(windows.seed)]
    others = [one.folder for one in (*list(asked.runs.values())[1:], *asked.missing)]
    again = shlex.join([*words, "--overwrite", "--against", *others])
    return Finding("unknown", f"The {run.label} was not asked about these windows; measure it with: {again}")


def _depth(found: Looping) -> Finding:
    one, usual, far = found.depth[1], found.depth[found.mu], found.depth[max(found.depth)]
    gain, beyond = apart(usual, one), apart(far, usual)
    most = max(found.depth)
    says = {
        "better": f"{found.mu} loops are better than one",
        "worse": f"{found.mu} loops are WORSE than one",
    }.get(gain, f"{found.mu} loops are not clearly different from one")
    after = {"better": f"{most} are better still", "worse": f"{most} are WORSE (overthinking)"}.get(
        beyond, f"{most} are not clearly different from {found.mu}"
    )
    verdict: Verdict = "mixed" if {gain, beyond} == {"better", "worse"} else gain if gain != "tie" else beyond
    return Finding(
        verdict, f"{says}, and {after}: EM {em(one)} at T = 1, {em(usual)} at T = {found.mu}, {em(far)} at T = {most} "
        "(intervals not paired)."
    )  # fmt: skip


def _early(found: Looping) -> Finding:
    one = next(one for one in found.early if one.threshold == found.chosen)
    cost = verdict_of(one.cost)
    saved = one.loops < found.mu - 0.005
    says = {"better": "with HIGHER EM", "worse": "at a cost in EM"}.get(cost, "with no clear change of EM")
    verdict: Verdict = "worse" if cost == "worse" else "better" if saved or cost == "better" else "tie"
    spent = f"takes {one.loops:.2f} of {found.mu} loops" if saved else f"saves nothing, it takes {one.loops:.2f} loops"
    return Finding(
        verdict,
        f"Leaving the loop early ({found.rule} below {found.chosen:g}) {spent}, {says}: {points(one.cost)}, paired.",
    )


def _needed(found: Looping) -> Finding:
    kinds = {kind: found.loops_by_kind[kind] for kind in KINDS if kind in found.loops_by_kind}
    told = ", ".join(
        f"{kind} {one.mean:.2f} [{one.low:.2f}, {one.high:.2f}] (n = {one.n})" for kind, one in kinds.items()
    )
    if not {"copy", "change"} <= set(kinds):
        return Finding("unknown", f"Loops by what a text asks for: {told}; there is nothing to compare.")
    verdict = apart(kinds["change"], kinds["copy"])
    says = {
        "better": "Changes take more loops than copies",
        "worse": "Changes take FEWER loops than copies",
    }.get(verdict, "Changes do not clearly take more loops than copies")
    return Finding(verdict, f"{says}, with that exit: {told} (intervals not paired).")


def _deferred(found: Looping) -> Finding:
    last, verdict = found.difference[-1], verdict_of(found.difference[-1])
    steps = len(found.difference)
    says = compared(last, "decoding every step and reading the words again")
    return Finding(
        verdict,
        f"Imagining {steps} step{'s'[: steps != 1]} in the latent is {says}: EM {em(found.latent[-1])} against "
        f"{em(found.words[-1])}, paired.",
    )

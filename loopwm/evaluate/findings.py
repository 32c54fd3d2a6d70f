"""The five lines that matter, in words: what the looped model buys, and where it loses or fails.

Every line is decided by the numbers: a difference whose interval contains "no difference" is called a tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.comparison import Comparison, Paired
from loopwm.evaluate.depth import DifficultyTable
from loopwm.evaluate.evaluation import Curve, Evaluation

Verdict = Literal["better", "tie", "worse", "mixed", "unknown", "fails"]

SYSTEM_NAMES = {
    "looped": "looped",
    "stack-equal-params": "equal-parameter stack",
    "stack-equal-flops": "equal-FLOP stack",
}
SAME = 0.01
"""Changes of an error below this share are not worth a word, however certain they are."""


@dataclass(frozen=True)
class Finding:
    """One line: a verdict from the point of view of the leading run, and a sentence with its numbers."""

    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"[{self.verdict}] {self.text}"


def findings(evaluations: list[Evaluation], comparison: Comparison) -> list[Finding]:
    """Exactly five lines about the leading evaluation, compared with the others where they are there."""
    leading = evaluations[0]
    stacks: dict[str, tuple[Evaluation, Paired]] = {}
    for other, pair in zip(evaluations[1:], comparison.pairs, strict=True):
        stacks.setdefault(other.run.system, (other, pair))
    flops, params = stacks.get("stack-equal-flops"), stacks.get("stack-equal-params")
    return [
        against_stack(leading, *flops) if flops else against_controls(leading),
        against_stack(leading, *params) if params else cost(leading),
        loops(leading) if leading.run.loops > 1 else task(leading),
        imagination(leading),
        failures(evaluations, comparison),
    ]


def against_stack(leading: Evaluation, other: Evaluation, pair: Paired) -> Finding:
    """Accuracy at equal parameters or equal FLOPs."""
    name = SYSTEM_NAMES.get(other.run.system, other.run.name)
    share = leading.run.parameters / other.run.parameters
    size = f"{percent(share)} of its parameters" if share < 0.95 else "about the same number of parameters"
    errors = f"{number(leading.one_step.mean)} against {number(other.one_step.mean)}"
    if pair.ratio is None:
        return Finding(
            "unknown", f"One step ahead against the {name}: {errors}, on different data; evaluate both again."
        )
    verdict = verdict_of(pair.ratio)
    gap = percent(abs(1 - pair.ratio.mean))
    says = {
        "better": f"{gap} less error than the {name}",
        "worse": f"{gap} MORE error than the {name}",
    }.get(verdict, f"no clear difference from the {name}")
    text = f"One step ahead: {says}, with {size}: {errors}, ratio {ratio(pair.ratio)}, n = {pair.ratio.n:,}"
    if pair.open_loop is None:
        return Finding(verdict, f"{text}.")
    imagined = verdict_of(pair.open_loop)
    change = percent(abs(1 - pair.open_loop.mean))
    says = {"better": f"{change} less error", "worse": f"{change} MORE error"}.get(imagined, "no clear difference")
    if {verdict, imagined} == {"better", "worse"}:
        verdict = "mixed"
    elif verdict == "tie":
        verdict = imagined
    steps = len(leading.horizon[0].error)
    return Finding(verdict, f"{text}. Imagined over {steps} steps: {says}, ratio {ratio(pair.open_loop)}.")


def against_controls(leading: Evaluation) -> Finding:
    """Accuracy against the best predictor without a world model."""
    name, best = min(leading.controls.items(), key=lambda item: item[1].mean)
    ours = leading.one_step
    verdict: Verdict = "better" if ours.high < best.low else "worse" if ours.low > best.high else "tie"
    return Finding(
        verdict,
        f"One step ahead: error {spread(ours)} against {spread(best)} of the best simple control ({name}), "
        f"n = {ours.n}. No stack was evaluated beside it, so this says nothing about what looping buys.",
    )


def cost(leading: Evaluation) -> Finding:
    """Size and time when there is nothing to compare with."""
    times = ", ".join(f"{number(time.decoded_median)} ms at batch {time.batch}" for time in leading.speed)
    return Finding(
        "unknown",
        f"Cost: {leading.run.parameters:,} parameters, {leading.run.flops / 1e6:.1f} MFLOPs a step, {times}; whether "
        "that is worth it needs a stack of the same size beside it.",
    )


def loops(leading: Evaluation) -> Finding:
    """What the loops do: the gap between one loop and mu, and what happens far beyond mu."""
    points = {point.loops: point for point in leading.depth}
    mu, deepest = leading.run.loops, max(points)
    one, far = points[1].relative, points[deepest].relative
    # `relative` is error(T) / error(mu), so 1 / relative is what remains of the error after mu loops.
    used = f"{mu} loops remove {percent(1 - 1 / one.mean)} of the error that one loop leaves"
    if one.low <= 1:
        used = f"The loops are IGNORED: {mu} do no better than one"
    change = far.mean - 1
    beyond = (
        f"at {deepest} loops the error is {percent(abs(change))} {'HIGHER (overthinking)' if change > 0 else 'lower'}"
        if verdict_of(far) != "tie" and abs(change) >= SAME
        else f"at {deepest} loops the error is the same"
    )
    verdict: Verdict = "worse" if one.low <= 1 else "mixed" if far.mean > 1.05 or one.mean < 1 + SAME else "better"
    return Finding(verdict, f"{used}; {beyond}, ratio {ratio(far)}.")


def task(leading: Evaluation) -> Finding:
    """Reward and termination, for a model without loops."""
    scores = leading.task
    area = f", ranks endings with AUC {spread(scores.auc)}" if scores.auc else ""
    verdict: Verdict = "better" if scores.brier.high < scores.brier_base else "tie"
    return Finding(
        verdict,
        f"Task: continue Brier score {spread(scores.brier)} against {number(scores.brier_base)} for always guessing "
        f"the base rate{area} ({scores.terminations} endings).",
    )


def imagination(leading: Evaluation) -> Finding:
    """How long an open-loop rollout is worth having."""
    model = next(curve for curve in leading.horizon if curve.kind == "model")
    controls = [curve for curve in leading.horizon if curve.kind == "control"]
    lead, last = lead_over(model, controls), len(model.error)
    best = min(controls, key=lambda curve: finite(curve.error[-1].mean))
    rival = f"{number(best.error[-1].mean)} of the best control ({best.name})"
    ends = f"after {last} steps its error is {spread(model.error[-1])} against {rival}"
    if lead == 0:
        return Finding("worse", f"Imagining with eyes shut LOSES to a simple control from the outset; {ends}.")
    if lead < last:
        steps = f"{lead} step{'s'[: lead != 1]}"
        return Finding("mixed", f"Imagining beats every control for {steps} and LOSES from step {lead + 1} on; {ends}.")
    return Finding("better", f"Imagining with eyes shut beats every control at all {last} steps; {ends}.")


def lead_over(model: Curve, controls: list[Curve]) -> int:
    """Steps, from horizon 1 on, for which the model's error is below every control's."""
    best = np.min([[finite(one.mean) for one in control.error] for control in controls], axis=0)
    ours = np.array([finite(one.mean) for one in model.error])
    behind = np.flatnonzero(ours >= best)
    return int(behind[0]) if len(behind) else len(ours)


def failures(evaluations: list[Evaluation], comparison: Comparison) -> Finding:
    """Where the leading model fails: non-finite numbers, hard transitions, time, the task."""
    leading, parts = evaluations[0], []
    broken = leading.nonfinite + leading.stability.nonfinite
    if broken:
        parts.append(f"{broken} predicted numbers were NaN or infinite")
    table = contact_table(leading)
    if table and len(table.bins) > 1:
        at = table.loops.index(leading.run.loops)
        easy, hard = table.bins[0], table.bins[-1]
        times = hard.error[at].mean / easy.error[at].mean
        parts.append(
            f"transitions with {hard.name} {table.label.replace('_', ' ')} have {times:.0f} times the error of those "
            f"with {easy.name} ({number(hard.error[at].mean)} against {number(easy.error[at].mean)}, n = {hard.n})"
        )
    slower = [
        text for text in (slowdown(evaluations, comparison, index) for index in range(1, len(evaluations))) if text
    ]
    parts += slower
    if leading.task.brier.mean >= leading.task.brier_base:
        parts.append("the end of an episode is predicted no better than by its base rate")
    if leading.task.reward.mean >= leading.task.reward_variance:
        parts.append("the reward is predicted no better than by its mean")
    text = "; ".join(parts) if parts else "nothing measured here failed"
    return Finding("fails" if parts else "better", f"Where it fails: {text}.")


def slowdown(evaluations: list[Evaluation], comparison: Comparison, index: int) -> str:
    """How much slower the leading run steps than run `index`, at the largest batch; empty when it is not."""
    ours, theirs = comparison.speed[0][-1], comparison.speed[index][-1]
    times = ours.decoded_median / theirs.decoded_median
    name = SYSTEM_NAMES.get(evaluations[index].run.system, evaluations[index].run.name)
    return f"a step takes {times:.2f} times as long as one of the {name} (batch {ours.batch})" if times > 1.05 else ""


def contact_table(evaluation: Evaluation) -> DifficultyTable | None:
    """The difficulty table that is easiest to understand: by number of contacts, else whichever label there is."""
    tables = {table.label: table for table in evaluation.difficulty}
    return tables.get("contacts") or next(iter(tables.values()), None)


def verdict_of(ratio: Interval) -> Verdict:
    """Of an error ratio: better below 1, worse above, tie when the interval contains 1."""
    return "better" if ratio.high < 1 else "worse" if ratio.low > 1 else "tie"


def finite(value: float) -> float:
    """NaN counts as infinitely bad."""
    return value if value == value else float("inf")


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def percent(share: float) -> str:
    """A share as a percentage, with a digit more when it is small."""
    return f"{100 * share:.0f}%" if abs(share) >= 0.095 else f"{100 * share:.1f}%"


def ratio(value: Interval) -> str:
    """A ratio near 1 with its interval: three decimals, because the third digit matters."""
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def spread(value: Interval) -> str:
    """An estimate with its interval."""
    return f"{number(value.mean)} [{number(value.low)}, {number(value.high)}]"

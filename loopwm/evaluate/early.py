"""One exit rule in earnest: what a model predicts when its rows really leave the loop early."""

from __future__ import annotations

from dataclasses import dataclass

from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.config import EvaluateConfig
from loopwm.evaluate.rollout import StepErrors, one_step, open_loop
from loopwm.evaluate.segments import Segments
from loopwm.model.config import ExitConfig
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class EarlyErrors:
    """Errors with the exit rule that was asked for, on the transitions and rollouts of the same evaluation at T = mu.

    Attributes:
        exit: the rule; a row that does not leave makes mu loops.
        one_step: normalised one-step error. excess: over that at T = mu, minus 1, paired by episode.
        loops: mean per one-step prediction.
        open_loop: normalised error at horizon 1, 2, ... open_loop_excess: over all steps, as `excess`.
        open_loop_loops: mean per imagined step.
        nonfinite: predicted numbers that were NaN or infinite.
    """

    exit: ExitConfig
    one_step: Interval
    excess: Interval
    loops: Interval
    open_loop: tuple[Interval, ...]
    open_loop_excess: Interval
    open_loop_loops: Interval
    nonfinite: int


def in_words(exit: ExitConfig, cap: int) -> str:
    """An exit rule with the most loops it allows, as short as it can be said."""
    return f"T = {cap} for all" if exit.rule == "fixed" else f"{exit.rule} < {exit.threshold:g}, T <= {cap}"


def early_errors(
    model: WorldModel, steps: Segments, full: StepErrors, long: Segments, blind: StepErrors, config: EvaluateConfig
) -> EarlyErrors | None:
    """Errors with `config.exit`; None if that is `fixed`, which is measured anyway.

    Args:
        steps, full: segments of the one-step error, and their errors at T = mu.
        long, blind: segments of the open-loop error, and their errors at T = mu.

    Raises:
        UserError: the model cannot follow the rule.
    """
    if config.exit.rule == "fixed":
        return None
    near, far = one_step(model, steps, exit=config.exit), open_loop(model, long, exit=config.exit)

    def bootstrap(segments: Segments) -> Bootstrap:
        return Bootstrap(segments.transition_episode, resamples=config.resamples, seed=config.seed)

    def excess(segments: Segments, early: StepErrors, late: StepErrors) -> Interval:
        valid = segments.valid
        return bootstrap(segments).ratio(early.observation[valid], late.observation[valid]).shifted(-1)

    by_row = Bootstrap(long.episode, resamples=config.resamples, seed=config.seed)
    return EarlyErrors(
        exit=config.exit,
        one_step=bootstrap(steps).mean(near.observation[steps.valid]),
        excess=excess(steps, near, full),
        loops=bootstrap(steps).mean(near.loops[steps.valid]),
        open_loop=tuple(by_row.means(far.observation[:, long.warmup :])),
        open_loop_excess=excess(long, far, blind),
        open_loop_loops=bootstrap(long).mean(far.loops[long.valid]),
        nonfinite=near.nonfinite + far.nonfinite,
    )

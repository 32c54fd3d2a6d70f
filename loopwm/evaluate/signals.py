"""What every exit rule sees at every loop: one pass at full depth answers for all thresholds.

A rule lets a row go after the loop in which its signal falls below a threshold, and nothing that a loop computes
depends on that threshold. So recording signals and errors once gives the loops and the error of every threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loopwm.errors import UserError
from loopwm.evaluate.scores import Array
from loopwm.evaluate.segments import Segments, rows_at_once
from loopwm.model.config import EXIT_RULES, ExitConfig, ExitRule
from loopwm.model.core import LoopedCore
from loopwm.model.exits import Exit, Signal
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class LoopRecord:
    """Every loop of n transitions.

    Attributes:
        signals: rule -> (T, n), infinite where the rule has nothing to say yet.
        error: (T, n) normalised squared error of what the state after each loop decodes to.
        refused: rules that the model cannot follow, with the reason.
    """

    signals: dict[str, npt.NDArray[np.float32]]
    error: npt.NDArray[np.float64]
    refused: dict[str, str]

    def loops(self, rule: str, threshold: float, cap: int) -> npt.NDArray[np.int64]:
        """Loops (n,) that each transition makes under a rule that stops it after `cap` loops at the latest."""
        # The core compares in single precision; a threshold in double would let other rows go.
        loud = ~(self.signals[rule][: cap - 1] < np.float32(threshold))
        return 1 + np.logical_and.accumulate(loud, axis=0).sum(0)

    def error_after(self, loops: npt.NDArray[np.int64]) -> Array:
        """Error (n,) of transitions that left after `loops` (n,)."""
        return self.error[loops - 1, np.arange(len(loops))]


def record_loops(
    model: WorldModel,
    segments: Segments,
    loops: int,
    *,
    rules: Sequence[ExitRule] = EXIT_RULES,
    batch: int | None = None,
) -> LoopRecord:
    """Signals and errors of the valid transitions of `segments`, in the order of `values[valid]`, over `loops` loops.

    With more than one step to a segment, earlier steps make mu loops each, whatever the rule.

    Args:
        rules: whose signals are recorded.

    Raises:
        UserError: the model is a stack.
    """
    batch = batch or rows_at_once(model.observation, segments.length)
    followed: dict[str, Exit] = {}
    refused: dict[str, str] = {}
    for rule in rules:
        try:
            leave = model.exit_rule(ExitConfig(rule))
        except UserError as error:
            refused[rule] = str(error)
            continue
        if leave is not None:
            followed[rule] = leave
    parts = [
        _record(model, segments.rows(slice(first, first + batch)), loops, followed)
        for first in range(0, len(segments), batch)
    ]
    signals = {rule: np.concatenate([part[rule] for part, _ in parts], axis=1) for rule in followed}
    return LoopRecord(signals, np.concatenate([error for _, error in parts], axis=1), refused)


def _record(
    model: WorldModel, segments: Segments, loops: int, rules: dict[str, Exit]
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float64]]:
    """Signals, (T, n) per rule, and errors (T, n) of one batch of segments."""
    core = model.core
    assert isinstance(core, LoopedCore)
    observations, actions, valid = (
        torch.as_tensor(array, device=model.device)
        for array in (segments.observations, segments.actions, segments.valid)
    )
    with torch.inference_mode():
        before = model.initial(len(segments))[:, None]
        if segments.length > 1:
            before = torch.cat([before, model.observe(observations[:, :-2], actions[:, :-1])], dim=1)
        watching = _Watching(model, observations[:, 1:][valid], rules)
        e, u = model.encode(observations[:, :-1][valid]), model.encode_action(actions[valid])
        # Nothing is below a threshold of zero, so every row stays to the end, and rows keep their order.
        core(before[valid], e, u, loops, leave=Exit(watching.begin, 0.0, 1))
    return watching.recorded()


class _Watching:
    """A signal that lets nobody go and writes down what all others say."""

    def __init__(self, model: WorldModel, after: Tensor, rules: dict[str, Exit]) -> None:
        self.model, self.after, self.rules = model, after, rules
        self.following: dict[str, Signal] = {}
        self.said: dict[str, list[Tensor]] = {rule: [] for rule in rules}
        self.errors: list[Tensor] = []

    def begin(self, *start: Tensor) -> Signal:
        """What `Exit.watch` is for: follow the rows that begin there."""
        self.following = {rule: leave.watch(*start) for rule, leave in self.rules.items()}
        return self

    def look(self, h: Tensor) -> Tensor:
        """As `Signal.look`."""
        for rule, signal in self.following.items():
            self.said[rule].append(signal.look(h))
        self.errors.append(self.model.read_error(self.model.read_state(h), self.after).flatten(1).mean(1))
        return h.new_full((len(h),), torch.inf)

    def keep(self, staying: Tensor) -> None:
        """As `Signal.keep`; rows leave together, after the last loop."""

    def recorded(self) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float64]]:
        """Signals (T, n) per rule and errors (T, n)."""
        signals = {rule: torch.stack(said).float().cpu().numpy() for rule, said in self.said.items()}
        error = torch.stack(self.errors).cpu().double().numpy()
        return signals, np.where(np.isfinite(error), error, np.inf)

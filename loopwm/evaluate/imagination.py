"""Thousands of imagined steps from many starts: is every number finite, is every norm within what the weights allow."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from loopwm.certify.bounds import OBSERVED, boundedness
from loopwm.evaluate.diagnostics import not_finite, stretches
from loopwm.evaluate.segments import Segments
from loopwm.model.core import Held, LoopedCore
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class LongImagination:
    """What a long rollout came to, beside claim B of docs/certificate.md. Norms are 2-norms of one token.

    Attributes:
        steps, starts, loops: K, B and T.
        nonfinite: latent or decoded numbers that were NaN or infinite.
        carried_max, carried_bound: largest carried latent h_k seen, and what no input exceeds.
        state_max, state_bound: the same of the loop states h^(t), h^(0) included; None for a stack.
        observed_max: largest observation that a start showed, in standard deviations.
        observed: observations that `state_bound` assumes, in standard deviations; None where it holds for all.
    """

    steps: int
    starts: int
    loops: int
    nonfinite: int
    carried_max: float
    carried_bound: float
    state_max: float | None
    state_bound: float | None
    observed_max: float
    observed: float | None

    @property
    def norm_max(self) -> float:
        """The largest norm seen: of a loop state, or of a stack's carried latent."""
        return self.carried_max if self.state_max is None else self.state_max

    @property
    def norm_bound(self) -> float:
        """The bound that belongs to `norm_max`."""
        return self.carried_bound if self.state_bound is None else self.state_bound


def long_imagination(
    model: WorldModel,
    segments: Segments,
    *,
    steps: int = 10_000,
    starts: int = 256,
    observed: float = OBSERVED,
    seed: int = 0,
) -> LongImagination:
    """Imagine `steps` steps from `starts` recorded observations under recorded actions in random order.

    Args:
        segments: where the observations and actions are taken from.
        observed: observations that the bound of the loop state covers, in standard deviations.
    """
    bounds = boundedness(model, observed)
    # A copy, because its loop is watched.
    model = copy.deepcopy(model)
    states = _watched(model.core) if isinstance(model.core, LoopedCore) else None
    carried, nonfinite = 0.0, 0
    for latents, prediction in stretches(model, segments, steps, starts, max(1, steps // 100), seed):
        carried = max(carried, _largest(latents))
        nonfinite += not_finite(latents, prediction)
    shown = model.normalise(torch.as_tensor(segments.observations[:, 0], device=model.device))
    return LongImagination(
        steps=steps,
        starts=starts,
        loops=model.default_loops,
        nonfinite=nonfinite,
        carried_max=carried,
        carried_bound=bounds.carried,
        state_max=None if states is None else states.largest,
        state_bound=bounds.state,
        observed_max=float(shown.abs().max()),
        observed=bounds.observed,
    )


class _LoopStates:
    """Stands in front of a core's `moved`, which sees every state before and after every loop."""

    def __init__(self, core: LoopedCore) -> None:
        self._moved, self.largest = core.moved, 0.0

    def __call__(self, h: Tensor, e: Tensor, held: Held, loop: int | Tensor) -> Tensor:
        after = self._moved(h, e, held, loop)
        self.largest = max(self.largest, _largest(h), _largest(after))
        return after


def _watched(core: LoopedCore) -> _LoopStates:
    states = _LoopStates(core)
    core.moved = states
    return states


def _largest(h: Tensor) -> float:
    """Largest 2-norm of a token of (..., N, D); NaN counts as infinite."""
    return float(h.norm(dim=-1).nan_to_num(nan=torch.inf).max())

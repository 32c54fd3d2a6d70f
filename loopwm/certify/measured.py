"""How fast a loop settles where nothing can be promised: measured on recorded states, and called measured."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from loopwm.certify.config import MeasureConfig
from loopwm.evaluate.diagnostics import jacobian_gains
from loopwm.evaluate.segments import Segments
from loopwm.model.core import LoopedCore
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class MeasuredRate:
    """Factor per loop by which a small difference of two loop states shrinks or grows in the long run. Not a bound.

    Attributes:
        median, worst: over states; below 1 the loop settles there.
        settled: share of the states at which the loop had settled.
        n: held-out states measured at.
        loops: T after which they were taken.
    """

    median: float
    worst: float
    settled: float
    n: int
    loops: int


def measured_rate(model: WorldModel, segments: Segments, config: MeasureConfig) -> MeasuredRate:
    """Power iteration on the Jacobian of one update, at the state reached on each of the segments' opening transitions.

    Args:
        model: a looped one. It is measured in float64.
        segments: held-out; only their opening transition is used.
    """
    model = copy.deepcopy(model).double()
    core = model.core
    assert isinstance(core, LoopedCore)
    loops = config.depth * model.default_loops
    with torch.no_grad():
        observation = torch.as_tensor(segments.observations[:, 0]).to(model.observation_mean)
        action = torch.as_tensor(segments.actions[:, 0]).to(model.observation_mean)
        u = model.encode_action(action)
        e = core.prelude(model.initial(len(segments)), model.encode(observation), u)
        held = core.held_input(e)
        phase = core.phases(torch.tensor([loops]))
        h = core.refine(core.start(torch.zeros_like(e), e), e, torch.full((len(e),), loops))
        residual = (core.update(h, e, held, phase) - h).flatten(1).norm(dim=1) / h.flatten(1).norm(dim=1)
    draws = torch.Generator().manual_seed(config.seed)
    _, factors = jacobian_gains(lambda x: core.update(x, e, held, phase), h, draws, config.iterations)
    return MeasuredRate(
        float(factors.median()),
        float(factors.max()),
        float((residual < config.settled_below).double().mean()),
        len(factors),
        loops,
    )

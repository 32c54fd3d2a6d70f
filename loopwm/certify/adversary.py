"""How near to what was certified a trained loop can be driven: states, inputs and exits sought in order to break it.

Nothing found here proves anything; a single number above what is certified would disprove it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loopwm.certify.config import AdversaryConfig
from loopwm.errors import LoopwmError
from loopwm.model.certified import CertifiedCore
from loopwm.model.config import ExitConfig
from loopwm.model.contraction import Contraction
from loopwm.model.exits import exit_for

ROWS = 500
"""Pairs searched at a time, which bounds the memory."""


@dataclass(frozen=True)
class Stretch:
    """Largest |x' - y'|_* / |x - y|_* over pairs of states that read the same input and make one loop.

    Attributes:
        certified: rho, which no pair may exceed.
        drawn: largest among pairs drawn at random, over recorded inputs. drawn_pairs: how many.
        sought: largest that gradient ascent on both states and on the input met. sought_pairs: how many were improved.
    """

    certified: float
    drawn: float
    drawn_pairs: int
    sought: float
    sought_pairs: int

    @property
    def largest(self) -> float:
        """The worst of all."""
        return max(self.drawn, self.sought)


@dataclass(frozen=True)
class Promise:
    """A certified exit beside where its rows would have ended.

    Attributes:
        distance: |h - h*|_* that was promised at the exit.
        worst: largest distance that was really left, over the promised one; above 1 the promise is broken.
        loops: mean loops made. loops_needed: mean loops after which rows really were that near.
        start: mean |h^(0) - h*|_*.
        rows: inputs.
    """

    distance: float
    worst: float
    loops: float
    loops_needed: float
    start: float
    rows: int


def largest_stretch(core: CertifiedCore, e: Tensor, config: AdversaryConfig) -> Stretch:
    """Search `config.pairs` pairs, half of them drawn and half of them sought.

    Args:
        core: in float64. e: (n, N, D) recorded inputs of the loop, used again and again.
    """
    draws, measure = torch.Generator().manual_seed(config.seed), core.contraction()
    half = max(1, config.pairs // 2)
    with torch.no_grad():
        drawn = [stretch(core, measure, *drawn_pairs(e, rows, draws)).max() for rows in _portions(half)]
    sought = [climb(core, measure, *drawn_pairs(e, rows, draws), config).max() for rows in _portions(half)]
    return Stretch(measure.rate, float(max(drawn)), half, float(max(sought)), half)


def _portions(rows: int) -> list[int]:
    return [min(ROWS, rows - start) for start in range(0, rows, ROWS)]


def drawn_pairs(e: Tensor, rows: int, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, e, each (rows, N, D): states from tiny to far outside what occurs, at distances from tiny to as large."""

    def noise(low: float, high: float) -> Tensor:
        scale = torch.rand(rows, 1, 1, generator=draws, dtype=e.dtype) * (high - low) + low
        return 10**scale * torch.randn(rows, *e.shape[1:], generator=draws, dtype=e.dtype)

    x = noise(-2, 1.5)
    return x, x + noise(-4, 1.5), e[torch.randint(len(e), (rows,), generator=draws)]


def stretch(core: CertifiedCore, measure: Contraction, x: Tensor, y: Tensor, e: Tensor) -> Tensor:
    """|x' - y'|_* / |x - y|_* of every row, (B,)."""
    held = core.held_input(e)
    return measure.distance(core.update(x, e, held) - core.update(y, e, held)) / measure.distance(x - y)


def climb(
    core: CertifiedCore, measure: Contraction, x: Tensor, y: Tensor, e: Tensor, config: AdversaryConfig
) -> Tensor:
    """The largest stretch met by gradient ascent from every row, on both states and on the input: (B,)."""
    points = [part.detach().clone().requires_grad_() for part in (x, y - x, e)]
    optimiser = torch.optim.Adam(points, lr=config.lr)
    best = x.new_zeros(len(x))
    for _ in range(config.steps):
        found = stretch(core, measure, points[0], points[0] + points[1], points[2])
        best = torch.maximum(best, found.detach())
        for point, gradient in zip(points, torch.autograd.grad(-found.log().sum(), points), strict=True):
            point.grad = gradient
        optimiser.step()
    return best


@torch.no_grad()
def settled(core: CertifiedCore, measure: Contraction, e: Tensor, start: Tensor) -> Tensor:
    """h* of every row, nearer than a billionth of its distance from `start`, which the theorem itself guarantees."""
    held, factor, end = core.held_input(e), measure.rate / (1 - measure.rate), start
    for _ in range(measure.loops_to(1e-12)):
        before, end = end, core.update(end, e, held)
        if bool((factor * measure.distance(end - before) <= 1e-9 * measure.distance(end - start)).all()):
            break
    return end


@torch.no_grad()
def promise(core: CertifiedCore, e: Tensor, share: float, limit: int) -> Promise:
    """What the certified exit leaves, where `share` of the mean distance at the start is promised.

    Args:
        core: in float64. e: (n, N, D) recorded inputs of the loop.
        limit: most loops.

    Raises:
        LoopwmError: `limit` loops were too few for some row.
    """
    measure, held = core.contraction(), core.held_input(e)
    start = core.start(torch.zeros_like(e), e)
    end = settled(core, measure, e, start)
    apart = measure.distance(start - end)
    distance = share * float(apart.mean())
    rule = exit_for(ExitConfig("certified", distance), lambda h: h, measure)
    left, loops = core.refine_until(start, e, torch.full((len(e),), limit), rule)
    if int(loops.max()) == limit:
        raise LoopwmError(f"A row needed more than {limit} loops for a promised distance of {distance:.3g}.")
    needed, h = torch.zeros(len(e)), start
    for _ in range(int(loops.max())):
        needed += measure.distance(h - end) > distance
        h = core.update(h, e, held)
    return Promise(
        distance=distance,
        worst=float(measure.distance(left - end).max()) / distance,
        loops=float(loops.double().mean()),
        loops_needed=float(needed.mean()),
        start=float(apart.mean()),
        rows=len(e),
    )

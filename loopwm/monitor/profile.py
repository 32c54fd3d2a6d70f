"""How a model loops: error and movement at every depth, and the loops an exit rule spends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loopwm.evaluate.depth import depth_grid
from loopwm.evaluate.diagnostics import ROUNDING
from loopwm.evaluate.matching import DifficultyBins, difficulty_bins
from loopwm.evaluate.segments import Segments, rows_at_once
from loopwm.model.core import LoopedCore
from loopwm.model.exits import Exit, relative
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.monitor.config import ProfileConfig

Array = npt.NDArray[np.float64]
Rows = tuple[tuple[float, ...], ...]

_BATCH = 128
"""Fits a processor's cache at the usual sizes; larger batches are slower there."""


@dataclass(frozen=True)
class Bins:
    """Difficulty bins of one label: their lower edges (G,), the lowest of which has no effect, and their names (G,)."""

    label: str
    edges: tuple[float, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, found: DifficultyBins) -> Bins:
        """Of a recording. Edges keep the digits that a file keeps, or values on an edge would change bins by it."""
        return cls(found.label, tuple(float(f"{edge:.6g}") for edge in found.edges), found.names)

    def index(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Bin (n,) of every value (n,)."""
        return np.searchsorted(np.asarray(self.edges[1:]), values, side="right").astype(np.int64)


@dataclass(frozen=True)
class EpisodeSums:
    """Sums over the transitions of each of E episodes, so that intervals can resample whole episodes.

    Attributes:
        episode: (E,) index in the recording.
        transitions: (E,) how many.
        error: (E, G) normalised squared error at each T of the grid.
        residual: (E, G) log of the relative change of the latent in loop T, for each T of the grid.
        turning: (E, 2) loops that turn back, among loops 2 to 2mu and among the later ones.
        halting: (E, 4mu) transitions that used 1, 2, ... loops.
        counts, loops: per label, (E, bins) transitions of each difficulty, and loops used on them.
    """

    episode: tuple[int, ...]
    transitions: tuple[float, ...]
    error: Rows
    residual: Rows
    turning: Rows
    halting: Rows
    counts: tuple[Rows, ...]
    loops: tuple[Rows, ...]


@dataclass(frozen=True)
class LoopProfile:
    """How a model loops on recorded transitions, each seen by itself: o_k and a_k, with nothing carried over.

    Attributes:
        grid: T at which error and residual are followed: 1, 2, 4, mu, 2mu, 4mu, 8mu.
        mu: of the model.
        error: (G,) normalised squared error at each T of the grid.
        residual: (8mu,) geometric mean of |h^(t) - h^(t-1)| / |h^(t)| in loop t = 1, 2, ...
        turning: (8mu - 1,) share of transitions that turn back in loop t = 2, 3, ...: the angle between this change of
            the latent and the one before is more than 90 degrees, and neither is mere rounding.
        halting: (4mu,) share of transitions that used 1, 2, ... loops.
        bins: one per label. sums: what the intervals are made of.
        nonfinite: decoded numbers that are NaN or infinite, at the T of the grid.
        n: transitions.
    """

    grid: tuple[int, ...]
    mu: int
    error: tuple[float, ...]
    residual: tuple[float, ...]
    turning: tuple[float, ...]
    halting: tuple[float, ...]
    bins: tuple[Bins, ...]
    sums: EpisodeSums
    nonfinite: int
    n: int


def profile(
    model: WorldModel, segments: Segments, config: ProfileConfig, bins: Sequence[Bins] | None = None
) -> LoopProfile:
    """Measure a looped model on the leading transition of every segment.

    Args:
        segments: of one transition each.
        config: which exit rule to follow.
        bins: difficulty bins to sort into; made from the labels of `segments` when None.

    Raises:
        UserError: the model cannot follow the exit rule.
    """
    grid, mu = depth_grid(model), model.default_loops
    batch = rows_at_once(model.observation, len(grid), _BATCH)
    parts = [
        _measured(model, segments.rows(slice(first, first + batch)), grid, config)
        for first in range(0, len(segments), batch)
    ]
    error, residual, turning = (np.concatenate([getattr(part, name) for part in parts]) for name in _ROWS)
    used = np.concatenate([part.used for part in parts])
    labels = {name: column[:, 0] for name, column in segments.labels.items()}
    if bins is None:
        bins = [Bins.of(difficulty_bins(name, values)) for name, values in labels.items()]
    within = turning[:, : 2 * mu - 1].sum(1), turning[:, 2 * mu - 1 :].sum(1)
    ids, row = np.unique(segments.episode, return_inverse=True)

    def summed(values: Array) -> Rows:
        sums = np.zeros((len(ids), values.shape[1]))
        np.add.at(sums, row, values)
        return tuple(tuple(line) for line in sums.tolist())

    inside = [_one_hot(one.index(labels[one.label]), len(one.names)) for one in bins]
    halting = _one_hot(used - 1, 4 * mu)
    sums = EpisodeSums(
        episode=tuple(ids.tolist()),
        transitions=tuple(np.bincount(row).astype(float).tolist()),
        error=summed(error),
        residual=summed(residual[:, np.array(grid) - 1]),
        turning=summed(np.stack(within, axis=1)),
        halting=summed(halting),
        counts=tuple(summed(member) for member in inside),
        loops=tuple(summed(member * used[:, None]) for member in inside),
    )
    return LoopProfile(
        grid=grid,
        mu=mu,
        error=_floats(error.mean(0)),
        residual=_floats(np.exp(residual.mean(0))),
        turning=_floats(turning.mean(0)),
        halting=_floats(halting.mean(0)),
        bins=tuple(bins),
        sums=sums,
        nonfinite=sum(part.nonfinite for part in parts),
        n=len(segments),
    )


_ROWS = ("error", "residual", "turning")


@dataclass(frozen=True)
class _Measured:
    """Of a batch of n: error (n, G), log residual (n, 8mu), turning (n, 8mu - 1), loops used (n,)."""

    error: Array
    residual: Array
    turning: Array
    used: npt.NDArray[np.int64]
    nonfinite: int


def _measured(model: WorldModel, segments: Segments, grid: tuple[int, ...], config: ProfileConfig) -> _Measured:
    core, mu = model.core, model.default_loops
    assert isinstance(core, LoopedCore)
    before, after, action = (
        torch.as_tensor(array, device=model.device)
        for array in (segments.observations[:, 0], segments.observations[:, 1], segments.actions[:, 0])
    )
    trace = Trace()
    with torch.inference_mode():
        e, h = model.encode(before), model.initial(len(segments))
        watching = _Watching(grid)
        # No signal is below zero, so no row leaves before all loops are made, and rows keep their order.
        core(h, e, model.encode_action(action), grid[-1], leave=Exit(watching.begin, 0.0, 1))
        read = torch.stack([model.read_state(h) for h in watching.states], dim=1)
        error = model.read_error(read, after[:, None]).flatten(2).mean(2).cpu().double().numpy()
        model.step(h, action, e, num_loops=4 * mu, exit=config.exit, trace=trace)
    return _Measured(
        error=np.where(np.isfinite(error), error, np.inf),
        residual=torch.stack(watching.residual, 1).cpu().double().clamp(min=ROUNDING).log().numpy(),
        turning=torch.stack(watching.turning, 1).cpu().double().numpy(),
        used=trace.loops[:, 0].numpy(),
        nonfinite=int((~read.isfinite()).sum()),
    )


class _Watching:
    """A signal that lets nobody go and writes down how the state moves."""

    def __init__(self, grid: tuple[int, ...]) -> None:
        self.grid, self.loop = grid, 0
        self.states: list[Tensor] = []
        self.residual: list[Tensor] = []
        self.turning: list[Tensor] = []

    def begin(self, *start: Tensor) -> _Watching:
        """What `Exit.watch` is for: h^(0) (B, N, D) comes in front."""
        self.before, self.change = start[0], torch.zeros_like(start[0])
        return self

    def look(self, h: Tensor) -> Tensor:
        """As `Signal.look`."""
        self.loop += 1
        change = h - self.before
        moved = relative(change, h)
        if self.residual:
            real = (moved > ROUNDING) & (self.residual[-1] > ROUNDING)
            self.turning.append(((change * self.change).flatten(1).sum(1) < 0) & real)
        self.residual.append(moved)
        if self.loop in self.grid:
            self.states.append(h)
        self.before, self.change = h, change
        return h.new_full((len(h),), torch.inf)

    def keep(self, staying: Tensor) -> None:
        """As `Signal.keep`; rows leave together, after the last loop."""


def _one_hot(index: npt.NDArray[np.int64], size: int) -> Array:
    return (index[:, None] == np.arange(size)).astype(np.float64)


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(values.tolist())

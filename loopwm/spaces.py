"""What an observation and an action are, in a form that can be stored beside data and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import gymnasium
import numpy as np

from loopwm.errors import UserError


@dataclass(frozen=True)
class ObservationSpec:
    """An observation: a flat vector (S,) or a set of entities (M, F), float32.

    Attributes:
        kind: `vector` or `entities`; entities are an unordered set, one latent token each.
        shape: (S,) or (M, F).
        names: names of the last axis, same length as `shape[-1]`.
        rates: pairs (feature, its time derivative), both from `names`; used by the constant-velocity control.
        dt: seconds per environment step; 0 when unknown.
    """

    kind: Literal["vector", "entities"]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    rates: tuple[tuple[str, str], ...] = ()
    dt: float = 0.0

    def __post_init__(self) -> None:
        expected = {"vector": 1, "entities": 2}[self.kind]
        if len(self.shape) != expected or min(self.shape) < 1:
            raise UserError(
                f"An observation of kind '{self.kind}' needs {expected} positive dimension(s), got shape {self.shape}."
            )
        if len(self.names) != self.shape[-1]:
            raise UserError(f"{len(self.names)} feature names were given for {self.shape[-1]} features.")
        unknown = [name for pair in self.rates for name in pair if name not in self.names]
        if unknown:
            raise UserError(f"Feature '{unknown[0]}' in `rates` is not one of {', '.join(self.names)}.")

    @property
    def size(self) -> int:
        """Numbers per observation."""
        return prod(self.shape)

    @property
    def num_features(self) -> int:
        """Length of the last axis: S of a vector, F of a set of entities."""
        return self.shape[-1]

    @classmethod
    def from_gymnasium(
        cls,
        space: gymnasium.Space,
        names: tuple[str, ...] | None = None,
        rates: tuple[tuple[str, str], ...] = (),
        dt: float = 0.0,
    ) -> ObservationSpec:
        """A 1-D Box is a vector, a 2-D Box is a set of entities.

        Raises:
            UserError: any other space.
        """
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) not in (1, 2):
            raise UserError(
                f"Observation space {space} is not supported: give a 1-D Box (vector) or a 2-D Box (entities x "
                "features), for example through gymnasium.wrappers.FlattenObservation."
            )
        kind = "vector" if len(space.shape) == 1 else "entities"
        names = names or tuple(f"feature{i}" for i in range(space.shape[-1]))
        return cls(kind, tuple(space.shape), names, rates, dt)

    def to_gymnasium(self) -> gymnasium.spaces.Box:
        """A Box of this shape without bounds, since none are stored."""
        return gymnasium.spaces.Box(-np.inf, np.inf, self.shape, np.float32)


@dataclass(frozen=True)
class ActionSpec:
    """An action: `continuous` (A,) float32, `discrete` with `size` choices stored as one index, or `multi-discrete`,
    several choices at once, stored as an index each.

    Attributes:
        kind: `continuous`, `discrete` or `multi-discrete`.
        size: numbers that a model reads: A for continuous, and the choices, of all parts together, for the others.
        low, high: bounds per stored number; empty for discrete. A part of a multi-discrete action has high + 1 choices.
    """

    kind: Literal["continuous", "discrete", "multi-discrete"]
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def stored_size(self) -> int:
        """Numbers stored per action: A, 1 for a discrete index, one index per part of a multi-discrete action."""
        return self.size if self.kind == "continuous" else len(self.choices)

    @property
    def choices(self) -> tuple[int, ...]:
        """Choices of every stored index; empty for a continuous action."""
        if self.kind == "continuous":
            return ()
        return (self.size,) if self.kind == "discrete" else tuple(int(high) + 1 for high in self.high)

    @classmethod
    def from_gymnasium(cls, space: gymnasium.Space) -> ActionSpec:
        """A 1-D Box is continuous, Discrete is discrete, a 1-D MultiDiscrete is multi-discrete; choices count from 0.

        Raises:
            UserError: any other space.
        """
        if isinstance(space, gymnasium.spaces.Discrete):
            return cls("discrete", int(space.n))
        if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
            low, high = (tuple(float(v) for v in bound) for bound in (space.low, space.high))
            return cls("continuous", int(space.shape[0]), low, high)
        if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
            high = tuple(float(count - 1) for count in space.nvec)
            return cls("multi-discrete", int(space.nvec.sum()), (0.0,) * len(high), high)
        raise UserError(
            f"Action space {space} is not supported: give a 1-D Box, a Discrete or a 1-D MultiDiscrete space."
        )

    def to_gymnasium(self) -> gymnasium.spaces.Box | gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete:
        """The space these actions are from, the inverse of `from_gymnasium`."""
        if self.kind == "continuous":
            return gymnasium.spaces.Box(np.array(self.low, np.float32), np.array(self.high, np.float32))
        return (
            gymnasium.spaces.Discrete(self.size)
            if self.kind == "discrete"
            else gymnasium.spaces.MultiDiscrete(list(self.choices))
        )

"""What an observation and an action are, in a form that can be stored beside data and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import gymnasium
import numpy as np

from loopwm.errors import UserError

PRESENT = "present"
"""The name of the feature that says whether an entity is there."""


@dataclass(frozen=True)
class ObservationSpec:
    """An observation: a flat vector (S,) or a set of entities (M, F), float32, or an image (H, W, C), uint8.

    Attributes:
        kind: `vector`, `entities`, `image` or `text`; entities are an unordered set, one latent token each.
        shape: (S,), (M, F) or (H, W, C); of a text (L,), its most words.
        names: names of the last axis, same length as `shape[-1]`; the channels of an image. A feature of entities that
            is called `present` says which of them are there, 1, and which only fill up the set, 0. Of a text, its
            vocabulary, which indices are kept of.
        rates: pairs (feature, its time derivative), both from `names`; used by the constant-velocity control.
        dt: seconds per environment step; 0 when unknown.
    """

    kind: Literal["vector", "entities", "image", "text"]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    rates: tuple[tuple[str, str], ...] = ()
    dt: float = 0.0

    def __post_init__(self) -> None:
        expected = {"vector": 1, "entities": 2, "image": 3, "text": 1}[self.kind]
        if len(self.shape) != expected or min(self.shape) < 1:
            raise UserError(
                f"An observation of kind '{self.kind}' needs {expected} positive dimension(s), got shape {self.shape}."
            )
        if self.kind != "text" and len(self.names) != self.shape[-1]:
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
        """Length of the last axis: S of a vector, F of a set of entities, C of an image; 1 for a text."""
        return 1 if self.kind == "text" else self.shape[-1]

    @property
    def dtype(self) -> np.dtype:
        """Type of the recorded numbers: uint8 for an image, int32 for words, otherwise float32; little-endian."""
        return np.dtype({"image": "u1", "text": "<i4"}.get(self.kind, "<f4"))

    @property
    def presence(self) -> int | None:
        """Which feature says whether an entity is there at all; None where all are."""
        return self.names.index(PRESENT) if self.kind == "entities" and PRESENT in self.names else None

    def weights(self, observations: Any) -> Any:
        """What every entity of observations (..., M, F) counts in a mean over M: (..., M, 1), 1 on average.

        Those that are not there count nothing, so that an error does not get small by filling up. An array of numpy
        gives an array, a tensor a tensor.
        """
        assert self.presence is not None
        there = observations[..., self.presence, None]
        return there * self.shape[0] / there.sum(-2, keepdims=True).clip(min=1)

    @property
    def warmup(self) -> int:
        """Transitions to be watched before predictions can be right: an image shows where things are, not how fast."""
        return 3 if self.kind == "image" else 0

    @classmethod
    def from_gymnasium(
        cls,
        space: gymnasium.Space,
        names: tuple[str, ...] | None = None,
        rates: tuple[tuple[str, str], ...] = (),
        dt: float = 0.0,
    ) -> ObservationSpec:
        """A 1-D Box is a vector, a 2-D Box is a set of entities, a 3-D Box of uint8 is an image.

        Raises:
            UserError: any other space.
        """
        image = len(space.shape or ()) == 3 and space.dtype == np.uint8
        if not isinstance(space, gymnasium.spaces.Box) or (len(space.shape) not in (1, 2) and not image):
            raise UserError(
                f"Observation space {space} is not supported: give a 1-D Box (vector), a 2-D Box (entities x "
                "features) or a 3-D Box of uint8 (image), for example through gymnasium.wrappers.FlattenObservation."
            )
        if image:
            return cls("image", tuple(space.shape), names or channel_names(space.shape[-1]), rates, dt)
        kind = "vector" if len(space.shape) == 1 else "entities"
        names = names or tuple(f"feature{i}" for i in range(space.shape[-1]))
        return cls(kind, tuple(space.shape), names, rates, dt)

    def recorded(self, values: np.ndarray) -> np.ndarray:
        """Predicted numbers (..., *S) as a world would give them: an image in whole bytes."""
        return values.round().clip(0, 255).astype(np.uint8) if self.kind == "image" else values

    def to_gymnasium(self) -> gymnasium.spaces.Box:
        """A Box of this shape: of bytes for an image, otherwise without bounds, since none are stored."""
        if self.kind == "image":
            return gymnasium.spaces.Box(0, 255, self.shape, np.uint8)
        return gymnasium.spaces.Box(-np.inf, np.inf, self.shape, np.float32)


def channel_names(channels: int) -> tuple[str, ...]:
    """What the channels of an image are called where nobody says."""
    known = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}
    return known.get(channels, tuple(f"channel{i}" for i in range(channels)))


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an image of this shape seems to be (C, H, W) instead of (H, W, C)."""
    return shape[0] in (1, 3, 4) and shape[-1] not in (1, 3, 4)


@dataclass(frozen=True)
class ActionSpec:
    """An action: `continuous` (A,) float32, `discrete` with `size` choices stored as one index, `multi-discrete`,
    several choices at once, stored as an index each, or `text`.

    Attributes:
        kind: `continuous`, `discrete`, `multi-discrete` or `text`.
        size: numbers that a model reads: A for continuous, and the choices, of all parts together, for the discrete
            ones. Of a text its most words, of the vocabulary that the observation names.
        low, high: bounds per stored number; empty for discrete. A part of a multi-discrete action has high + 1 choices.
    """

    kind: Literal["continuous", "discrete", "multi-discrete", "text"]
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def stored_size(self) -> int:
        """Numbers stored per action: A, 1 for a discrete index, one index per part of a multi-discrete action."""
        return len(self.choices) or self.size

    @property
    def choices(self) -> tuple[int, ...]:
        """Choices of every stored index; empty for a continuous action and for a text."""
        if self.kind in ("continuous", "text"):
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

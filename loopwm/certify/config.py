"""What can be chosen about measuring a rate, and about attacking a certified one. Importing this needs no torch, so
that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass

from loopwm.errors import UserError


@dataclass(frozen=True)
class MeasureConfig:
    """How the contraction rate of an uncertified loop is measured."""

    states: int = 256
    """Held-out states to measure at."""
    depth: int = 8
    """They are taken after this many times mu loops."""
    iterations: int = 40
    """Of the power iteration."""
    settled_below: float = 1e-3
    """Relative change per loop under which a state counts as settled."""
    seed: int = 0
    """Chooses the states and the directions."""

    def __post_init__(self) -> None:
        for name in ("states", "depth"):
            if getattr(self, name) < 1:
                raise UserError(f"certify.{name} must be at least 1, got {getattr(self, name)}.")
        if self.iterations < 2:
            raise UserError(f"certify.iterations must be at least 2, got {self.iterations}.")
        if self.seed < 0 or self.settled_below <= 0:
            raise UserError("certify.seed must not be negative, and certify.settled_below must be positive.")


@dataclass(frozen=True)
class AdversaryConfig:
    """How hard a certified rate is tried to be broken."""

    pairs: int = 10_000
    """Pairs of states, half of them drawn at random and half of them sought by gradient ascent."""
    steps: int = 60
    """Of the ascent."""
    lr: float = 0.05
    """Step size of the ascent."""
    inputs: int = 1000
    """Recorded inputs of the loop that pairs read."""
    promised: float = 0.1
    """Distance that the certified exit has to promise, over the mean distance at the start."""
    seed: int = 0
    """Of all draws."""

    def __post_init__(self) -> None:
        for name in ("pairs", "steps", "inputs"):
            if getattr(self, name) < 1:
                raise UserError(f"adversary.{name} must be at least 1, got {getattr(self, name)}.")
        if self.lr <= 0 or self.seed < 0:
            raise UserError("adversary.lr must be positive, and adversary.seed must not be negative.")
        if not 0 < self.promised < 1:
            raise UserError(f"adversary.promised is a share of the distance in (0, 1), got {self.promised}.")

"""Sizes and switches of a world model; bad combinations are refused with the reason."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from loopwm.errors import UserError

System = Literal["looped", "stack-equal-params", "stack-equal-flops"]
SYSTEMS: tuple[System, ...] = ("looped", "stack-equal-params", "stack-equal-flops")


@dataclass(frozen=True)
class LoopConfig:
    """The shared block and how often it runs."""

    mu: int = 6
    """Mean number of loops in training, and the default at run time."""
    retention: Literal["zoh", "euler"] = "zoh"
    """How Eq. 5 is discretised: exact zero-order hold, or the report's form."""
    abar: float = 0.607
    """Share of the latent that survives one loop, at initialisation."""
    depth_law: Literal["poisson", "lognormal-poisson", "fixed"] = "poisson"
    """Law of the number of loops in training, drawn per sequence."""
    depth_spread: float = 0.7
    """Standard deviation of the log rate under `lognormal-poisson`."""
    gradient: Literal["all", "last"] = "last"
    """Back-propagate through all loops, or through the last max(4, ceil(mu / 2))."""
    warm_start: bool = False
    """Start the loop from the previous step's latent instead of zeros."""

    def __post_init__(self) -> None:
        for name, known in (("retention", ("zoh", "euler")), ("gradient", ("all", "last"))):
            if getattr(self, name) not in known:
                raise UserError(f"model.loop.{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'.")
        if self.depth_law not in ("poisson", "lognormal-poisson", "fixed"):
            raise UserError(
                f"model.loop.depth_law must be poisson, lognormal-poisson or fixed, got '{self.depth_law}'."
            )
        if self.mu < 1:
            raise UserError(
                f"model.loop.mu must be at least 1, got {self.mu}: a loop that never runs predicts nothing."
            )
        if not 0.01 <= self.abar <= 0.99:
            raise UserError(f"model.loop.abar must lie in [0.01, 0.99], got {self.abar}.")
        if self.depth_spread <= 0:
            raise UserError(f"model.loop.depth_spread must be positive, got {self.depth_spread}.")

    @property
    def max_loops(self) -> int:
        """Most loops a training sequence can get: 4 mu."""
        return 4 * self.mu

    @property
    def gradient_loops(self) -> int:
        """Loops, counted from the last one, that gradients pass through."""
        return self.max_loops if self.gradient == "all" else max(4, math.ceil(self.mu / 2))


@dataclass(frozen=True)
class ModelConfig:
    """A world model: its size, its core and its loop."""

    system: System = "looped"
    """`looped`, or the ordinary stack with the looped model's parameters, or with its FLOPs at T = mu."""
    width: int = 64
    """D, width of every token."""
    heads: int = 4
    """H, attention heads."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over D."""
    tokens: int = 8
    """N, latent tokens of a vector observation; a set of entities has one token each."""
    prelude: int = 1
    """Layers that build e from the carried latent, the observation and the action."""
    shared: int = 1
    """Layers in the shared block."""
    coda: int = 1
    """Layers after the loop."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp_ratio", "tokens", "prelude", "shared"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} must be at least 1, got {getattr(self, name)}.")
        if self.coda < 0:
            raise UserError(f"model.coda must not be negative, got {self.coda}.")
        if self.width % self.heads:
            raise UserError(f"model.width ({self.width}) must be a multiple of model.heads ({self.heads}).")
        if self.system not in SYSTEMS:
            raise UserError(f"model.system must be one of {', '.join(SYSTEMS)}, got '{self.system}'.")

    @property
    def stack_depth(self) -> int:
        """Layers of the ordinary stack that this configuration's loop is compared with."""
        shared = self.shared if self.system == "stack-equal-params" else self.shared * self.loop.mu
        return self.prelude + shared + self.coda


SIZES: dict[str, ModelConfig] = {
    "nano": ModelConfig(width=32, heads=2),
    "tiny": ModelConfig(width=64, heads=4),
    "small": ModelConfig(width=128, heads=4, tokens=16),
    "base": ModelConfig(width=256, heads=8, tokens=16, shared=2),
}


def sized(name: str, base: ModelConfig | None = None) -> ModelConfig:
    """`base` with layers, widths and tokens of the named size; its system and its loop are no matter of size and stay.

    Raises:
        UserError: no such size; the nearest name is suggested.
    """
    if name not in SIZES:
        near = difflib.get_close_matches(name, SIZES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(SIZES)}."
        raise UserError(f"There is no model size '{name}'; {hint}")
    base = base or ModelConfig()
    return replace(SIZES[name], system=base.system, loop=base.loop)

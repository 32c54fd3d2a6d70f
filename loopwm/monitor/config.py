"""What is measured of a loop, and how much it may change. Importing this needs no torch, so that help comes fast."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopwm.data.split import Split
from loopwm.errors import UserError
from loopwm.model.config import ExitConfig


@dataclass(frozen=True)
class ProfileConfig:
    """How a reference is measured. Whatever is compared with it is measured in the same way."""

    split: Split = "validation"
    """Episodes to measure on. Splits go by content, so episodes trained on are in `train` in every recording."""
    transitions: int = 1500
    """About so many transitions, thinned evenly at random."""
    exit: ExitConfig = field(default_factory=lambda: ExitConfig("output_delta", 0.05))
    """The exit rule whose loops are counted, with at most 4 mu of them."""
    seed: int = 0
    """Chooses the transitions."""

    def __post_init__(self) -> None:
        if self.transitions < 1 or self.seed < 0:
            raise UserError(
                f"sample.transitions must be at least 1 and sample.seed must not be negative, got {self.transitions} "
                f"and {self.seed}."
            )
        if self.exit.rule == "fixed":
            raise UserError("sample.exit.rule 'fixed' lets every row make all loops: choose a rule that lets rows go.")


@dataclass(frozen=True)
class MonitorConfig:
    """Limits. A property has changed when it is beyond its limit by more than the choice of episodes explains."""

    error: float = 1.05
    """Most that the one-step error may grow, as a factor, at each T of 1, 2, 4, mu, 2mu, 4mu and 8mu."""
    overthinking: float = 1.1
    """Most that the error at 8mu may be over the error at mu, unless it was as much in the reference."""
    residual: float = 1.5
    """Most that the relative change of the latent in loop T may grow, as a factor, at each of these T."""
    oscillation: float = 0.1
    """Most that the share of loops which turn back may grow."""
    halting: float = 0.15
    """Most that the histogram of loops used may move, in total variation: the share of transitions that would have to
    use another number of loops."""
    loops: float = 1.25
    """Most that the mean loops used on transitions of one difficulty may change, as a factor, up or down."""
    confidence: float = 0.95
    """Of all intervals of a comparison together: an unchanged model passes at least this often."""
    resamples: int = 1000
    """Bootstrap resamples of the episodes."""
    seed: int = 0
    """Of the resamples."""

    def __post_init__(self) -> None:
        for name in ("error", "overthinking", "residual", "loops"):
            if not getattr(self, name) >= 1:
                raise UserError(f"monitor.{name} is a factor of at least 1, got {getattr(self, name)}.")
        for name in ("oscillation", "halting"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"monitor.{name} is a share in [0, 1], got {getattr(self, name)}.")
        if not 0 < self.confidence < 1:
            raise UserError(f"monitor.confidence must lie in (0, 1), got {self.confidence}.")
        if self.resamples < 100 or self.seed < 0:
            raise UserError(
                f"monitor.resamples must be at least 100 and monitor.seed must not be negative, got {self.resamples} "
                f"and {self.seed}."
            )

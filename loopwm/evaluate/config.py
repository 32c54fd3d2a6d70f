"""What can be chosen about an evaluation. Importing this needs no torch, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loopwm.data.split import Split
from loopwm.errors import UserError
from loopwm.model.config import ExitConfig

if TYPE_CHECKING:
    from loopwm.spaces import ObservationSpec


@dataclass(frozen=True)
class SpeedConfig:
    """How speed is measured."""

    batches: tuple[int, ...] = (1, 512)
    """Rows that step together."""
    rounds: int = 9
    """Times every model gets its turn; the median round is reported."""
    seconds: float = 0.05
    """Time to spend on one model, batch size and round; at least one step is made."""

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise UserError(f"evaluate.speed.batches needs positive numbers, got {self.batches}.")
        if self.rounds < 1 or self.seconds <= 0:
            raise UserError(
                f"evaluate.speed needs rounds of at least 1 and positive seconds, got {self.rounds} and {self.seconds}."
            )


@dataclass(frozen=True)
class EvaluateConfig:
    """How much is evaluated. The defaults take about half a minute for 0.11M parameters on one core."""

    split: Split = "test"
    """Episodes to evaluate on."""
    context: int = 1
    """Steps a one-step prediction may look at: 1 shows only o_k and a_k, more lets the latent carry a memory."""
    warmup: int | None = None
    """Transitions that are watched before predictions count; 3 where observations are images, which hide speeds, and
    none elsewhere when left out."""
    transitions: int = 6000
    """Transitions of the one-step measurements, thinned evenly at random."""
    horizon: int = 40
    """Steps of an open-loop rollout."""
    stride: int = 20
    """Open-loop rollouts begin at every so many steps of an episode."""
    rollouts: int = 600
    """At most so many rollouts."""
    training_rollouts: int = 4000
    """Stretches of the training episodes that the linear controls are fitted on."""
    stability_steps: int = 2000
    """Steps of the very long rollout."""
    resamples: int = 1000
    """Bootstrap resamples."""
    seed: int = 0
    """Of everything random in an evaluation."""
    exit: ExitConfig = field(default_factory=ExitConfig)
    """Measure the one-step and the open-loop error also with this exit rule, beside those at T = mu."""
    calibrated: bool = False
    """Take the exit that `loopwm calibrate` kept in the run."""
    tolerance: float = 0.01
    """Excess error over T = mu at which exit rules are compared."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """How speed is measured."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"evaluate.seed must not be negative, got {self.seed}.")
        names = ("context", "transitions", "horizon", "stride", "rollouts", "training_rollouts", "stability_steps")
        for name in (*names, "resamples"):
            if getattr(self, name) < 1:
                raise UserError(f"evaluate.{name} must be at least 1, got {getattr(self, name)}.")
        if self.warmup is not None and self.warmup < 0:
            raise UserError(f"evaluate.warmup must not be negative, got {self.warmup}.")
        if self.calibrated and self.exit.rule != "fixed":
            raise UserError(
                f"evaluate takes the calibrated exit or exit.rule '{self.exit.rule}', not both; leave one out."
            )
        if not 0 < self.tolerance < 1:
            raise UserError(f"evaluate.tolerance is a share in (0, 1), got {self.tolerance}.")

    def watched(self, spec: ObservationSpec) -> int:
        """`warmup`, filled in for this kind of observation."""
        return spec.warmup if self.warmup is None else self.warmup

    def same_sample(self, other: EvaluateConfig) -> bool:
        """Whether two evaluations of one recording looked at the same transitions, so that errors can be paired."""
        names = ("split", "context", "warmup", "transitions", "horizon", "stride", "rollouts", "seed")
        return all(getattr(self, name) == getattr(other, name) for name in names)


@dataclass(frozen=True)
class LyapunovConfig:
    """How the largest Lyapunov exponents of a model and of the engine it imitates are measured."""

    starts: int = 64
    """Trajectories, each from the opening observation of an episode of its own."""
    burn_in: int = 20
    """Steps before anything is counted, in which the tangent turns towards the direction that grows most."""
    steps: int = 100
    """Steps counted."""
    epsilon: float = 1e-8
    """Distance of the engine's twin, in standard deviations. Large against rounding, small against a contact."""
    seed: int = 0
    """Of the starts, the actions and the initial directions."""

    def __post_init__(self) -> None:
        if self.starts < 2 or self.steps < 1 or self.burn_in < 0 or self.seed < 0:
            raise UserError(
                f"lyapunov needs starts of at least 2, steps of at least 1, and no negative burn_in or seed, got "
                f"{self.starts}, {self.steps}, {self.burn_in} and {self.seed}."
            )
        if not 1e-12 <= self.epsilon <= 0.1:
            raise UserError(f"lyapunov.epsilon must lie in [1e-12, 0.1], got {self.epsilon}: below, twins only round.")

"""What can be chosen about a calibration. Importing this needs no torch, so that the command line starts fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from loopwm.errors import UserError
from loopwm.model.config import EXIT_RULES, ExitRule

HeldOut = Literal["validation", "test"]


@dataclass(frozen=True)
class CalibrateConfig:
    """Which exit is calibrated, and what is claimed of it."""

    rule: ExitRule = "output_delta"
    """The exit rule whose threshold is chosen."""
    excess: float = 0.01
    """Tolerated excess: error with the exit over error at full depth, minus 1."""
    confidence: float = 0.95
    """Probability, over the draw of the calibration episodes, that the claim is true."""
    method: Literal["betting", "normal"] = "betting"
    """`betting` holds for any number of episodes; `normal` needs far fewer, and holds only as their number grows."""
    horizon: int = 10
    """Steps of the model's own rollouts. The claim is made one step ahead and for the mean over these steps."""
    split: HeldOut = "validation"
    """Which held-out episodes of the run's own recording; a recording given with --data is used as a whole."""
    candidates: int = 16
    """Thresholds to choose from. They are set on training episodes, before any calibration episode is looked at."""
    episodes: int = 8000
    """At most so many calibration episodes."""
    seed: int = 0
    """Of the order in which the episodes are counted, and of the training episodes drawn."""

    def __post_init__(self) -> None:
        if self.rule not in EXIT_RULES:
            raise UserError(f"calibrate.rule must be one of {', '.join(EXIT_RULES[1:])}, got '{self.rule}'.")
        if self.rule == "fixed":
            raise UserError("calibrate.rule 'fixed' never leaves early and has no threshold; choose another rule.")
        for name in ("excess", "confidence"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value < 1):
                raise UserError(f"calibrate.{name} must lie between 0 and 1, both left out, got {value}.")
        if self.method not in ("betting", "normal"):
            raise UserError(f"calibrate.method must be betting or normal, got '{self.method}'.")
        if self.split not in ("validation", "test"):
            raise UserError(
                f"calibrate.split must be validation or test, got '{self.split}': a threshold that is calibrated on "
                "episodes the model was trained on promises nothing about others."
            )
        for name in ("horizon", "candidates", "episodes"):
            if getattr(self, name) < 1:
                raise UserError(f"calibrate.{name} must be at least 1, got {getattr(self, name)}.")
        if self.seed < 0:
            raise UserError(f"calibrate.seed must not be negative, got {self.seed}.")

"""How a text world is imagined. Apart from the simulator, so that a command knows its options without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopwm.errors import UserError
from loopwm.model.config import ExitConfig


@dataclass(frozen=True)
class SimulatorConfig:
    """How a text world is imagined."""

    num_loops: int | None = None
    """T of every step; mu when left out."""
    exit: ExitConfig = field(default_factory=ExitConfig)
    """Lets a step take fewer loops."""
    beam: int = 1
    """Texts kept while writing; 1 takes the likeliest word every time."""
    memory: int | None = None
    """Transitions up to now that are followed one by one; as many as the training windows of a run had, or 16, when
    left out. Of those before them the latest of every kind are remembered where the initial state is known, and none
    where it is not."""
    decode: bool = False
    """Decode every step and read what was written as if it had happened, instead of going on in the latent."""

    def __post_init__(self) -> None:
        if self.num_loops is not None and self.num_loops < 1:
            raise UserError(f"num_loops must be at least 1, got {self.num_loops}.")
        if self.memory is not None and self.memory < 1:
            raise UserError(f"memory must be at least 1 transition, got {self.memory}.")
        if self.beam < 1:
            raise UserError(f"A beam keeps at least 1 text, got {self.beam}.")

"""What can be chosen about a recording. Importing this needs no engine, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass

from loopwm.errors import UserError


@dataclass(frozen=True)
class CollectConfig:
    """What to record.

    Attributes:
        world: name of a world.
        episodes: how many.
        max_steps: transitions after which an episode is cut short.
        workers: recording processes; 0 takes one per core. The recording does not depend on it.
        seed: the recording is a function of the seed, the world and max_steps.
    """

    world: str = "billiards"
    episodes: int = 4000
    max_steps: int = 60
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.max_steps < 1:
            raise UserError(
                f"Recording needs at least 1 episode of at least 1 step, got episodes={self.episodes} and "
                f"max_steps={self.max_steps}."
            )
        if self.workers < 0 or self.seed < 0:
            raise UserError(f"workers and seed must not be negative, got {self.workers} and {self.seed}.")

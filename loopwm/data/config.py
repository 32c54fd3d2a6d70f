"""What can be chosen about a recording. Importing this needs no engine, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass

from loopwm.errors import UserError


@dataclass(frozen=True)
class CollectConfig:
    """What to record.

    Attributes:
        world: name of a world, `gym:ID` for an environment registered with Gymnasium, or `dmc:DOMAIN-TASK`.
        episodes: how many, at most.
        steps: stop after the episode in which so many transitions are reached; 0 records all `episodes`.
        max_steps: transitions after which an episode is cut short; 0 takes the world's own limit.
        workers: recording processes; 0 takes one per core. The recording does not depend on it.
        seed: the recording is a function of the seed, the world, max_steps, and who acts.
        policy: who acts: `random`, `scripted` (the world's own, where it has one), or `module:function`, a function
            (observation, numpy generator) -> action.
        hold: steps that each action is kept for.
    """

    world: str = "billiards"
    episodes: int = 4000
    steps: int = 0
    max_steps: int = 0
    workers: int = 0
    seed: int = 0
    policy: str = "random"
    hold: int = 1

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise UserError(f"Recording needs at least 1 episode, got episodes={self.episodes}.")
        for name in ("steps", "max_steps", "workers", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.hold < 1:
            raise UserError(f"hold must be at least 1, got {self.hold}: every action acts for a step.")

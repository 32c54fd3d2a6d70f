"""A trained text world as a Gymnasium environment: what the model writes is what happens.

`TextWorldModelEnv.from_run("runs/text")`; time is that of docs/time.md: `step(a_k)` gives o_{k+1}, r_k and whether the
episode goes on.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

from loopwm.errors import UserError
from loopwm.text.config import SimulatorConfig
from loopwm.text.recording import TextEpisode, read_recording
from loopwm.text.simulator import Scene, TextSimulator
from loopwm.text.vocabulary import ESCAPE, SPACE
from loopwm.train.journal import read_config

LONGEST = 10_000
"""Characters of an observation."""


@dataclass(frozen=True)
class ImaginedTextConfig:
    """How episodes of a text world are imagined."""

    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    """Loops, exit, and whether to go on in latents or in words."""
    initial: bool = False
    """Show the model the complete initial state, where it is recorded."""
    end_below: float = 0.5
    """An episode terminates at the step after which it goes on with a probability below this; 0 never ends one."""
    max_steps: int = 0
    """Steps after which it is truncated; 0 for never."""

    def __post_init__(self) -> None:
        if not 0 <= self.end_below <= 1:
            raise UserError(f"end_below is a probability, got {self.end_below}; give a number from 0 to 1.")
        if self.max_steps < 0:
            raise UserError(f"max_steps must not be negative, got {self.max_steps}.")


class TextWorldModelEnv(gymnasium.Env[str, str]):
    """One imagined text world.

    Observations and actions are texts. An action that is longer than the model can read is cut, and one without any
    word is read as an unknown one; `info` has `confidence`, `loops` and, after `reset`, `game` and `description`.

    Args:
        simulator: a trained model.
        starts: recorded episodes; an imagined one begins as one of them.

    Raises:
        UserError: there is no start, or one lacks the initial state that is asked for.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self, simulator: TextSimulator, starts: Sequence[TextEpisode], config: ImaginedTextConfig | None = None
    ) -> None:
        self.config = config or ImaginedTextConfig()
        if not starts:
            raise UserError("An imagined world begins as a recorded episode does, and none was given.")
        if self.config.initial and (without := next((one.game for one in starts if not one.initial), None)):
            raise UserError(f"The initial state of {without} was not recorded; leave initial off.")
        self.simulator, self.starts = simulator, tuple(starts)
        words = {character for word in simulator.vocabulary.words for character in word} - {SPACE, ESCAPE}
        self._characters = frozenset(words | {" "} | set(string.ascii_letters + string.digits))
        shown = "".join(sorted(self._characters))
        self.observation_space = gymnasium.spaces.Text(LONGEST, min_length=0, charset=shown)
        self.action_space = gymnasium.spaces.Text(12 * simulator.model.action.size, charset=shown)
        self._scene: Scene | None = None
        self._steps = 0

    @classmethod
    def from_run(
        cls,
        run: Path | str,
        data: Path | str | None = None,
        split: str = "train",
        config: ImaginedTextConfig | None = None,
        device: str = "cpu",
    ) -> TextWorldModelEnv:
        """The world that `run` has learned, begun as the episodes of `split` of its recording are.

        Raises:
            UserError: no such run or recording.
        """
        path = Path(data) if data is not None else read_config(Path(run) / "config.yaml").data
        starts = [one for one in read_recording(path)[1] if one.split == split]
        config = config or ImaginedTextConfig()
        return cls(TextSimulator.from_run(run, config.simulator, device), starts, config)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin as one of the starts, drawn with `seed`, or the one whose game is `options["game"]`.

        Raises:
            UserError: no start is of that game.
        """
        super().reset(seed=seed)
        chosen = self.starts[int(self.np_random.integers(len(self.starts)))]
        if options and "game" in options:
            found = [one for one in self.starts if one.game == options["game"]]
            if not found:
                raise UserError(f"None of the starts is of the game '{options['game']}'.")
            chosen = found[0]
        initial = chosen.initial if self.config.initial else ""
        self._scene = self.simulator.begin(chosen.observations[0], chosen.description, initial)
        self._steps = 0
        return self._said(chosen.observations[0]), {"game": chosen.game, "description": chosen.description}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """o_{k+1}, r_k, terminated, truncated, info.

        Raises:
            UserError: `reset` was not called.
        """
        if self._scene is None:
            raise UserError("Call reset before step.")
        self._scene, answer = self._scene.act(self.simulator.readable(action))
        self._steps += 1
        terminated = answer.goes_on < self.config.end_below
        truncated = bool(self.config.max_steps) and self._steps >= self.config.max_steps
        info = {"confidence": answer.confidence, "loops": answer.loops, "goes_on": answer.goes_on}
        return self._said(answer.observation), answer.reward, terminated, truncated, info

    def _said(self, text: str) -> str:
        return "".join(character for character in " ".join(text.split()) if character in self._characters)[:LONGEST]

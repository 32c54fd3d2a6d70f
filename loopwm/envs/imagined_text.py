"""A trained text world as a Gymnasium environment: what the model writes is what happens.

`TextWorldModelEnv.from_run("runs/text", max_steps=20)` is to texts what `loopwm.WorldModelEnv` is to numbers. Time is
that of docs/time.md: `step(a_k)` gives o_{k+1}, r_k and whether the episode goes on.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import gymnasium

from loopwm.data.split import Split
from loopwm.errors import UserError
from loopwm.text.config import SimulatorConfig
from loopwm.text.playing import Beginning
from loopwm.text.recording import TextEpisode, read_recording
from loopwm.text.simulator import Scene, TextSimulator
from loopwm.text.vocabulary import ESCAPE, SPACE
from loopwm.train.journal import read_config
from loopwm.train.published import folders

LONGEST = 10_000
"""Characters of an observation."""


@dataclass(frozen=True)
class ImaginedTextConfig:
    """How episodes of a text world are imagined."""

    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    """Loops, exit, beam, and whether to go on in latents or in words."""
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
    """One imagined text world with Gymnasium's `reset` and `step`.

    Observations and actions are texts. An action that is longer than the model can read is cut, and one without any
    word is read as an unknown one. `info` has `loops`, the loops that the step used (None of a stack),
    `continue_probability` and `confidence`, the probability of the text, word for word; after `reset`, `game` and
    `description`.

    `reset(options={"observation": text})` begins with a text of your own instead of a recorded one, of which
    `description` and `initial` may be given too; `options={"game": name}` with the recorded game of that name.

    Args:
        simulator: a trained model.
        starts: recorded episodes; an imagined one begins as one of them. Without any, every `reset` needs an
            observation.

    Raises:
        UserError: a start lacks the initial state that is asked for.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self, simulator: TextSimulator, starts: Sequence[TextEpisode], config: ImaginedTextConfig | None = None
    ) -> None:
        self.config = config or ImaginedTextConfig()
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
        split: Split = "train",
        device: str = "cpu",
        **settings: Any,
    ) -> TextWorldModelEnv:
        """The world that a training run, or a model that comes with loopwm, has learned.

        Args:
            run: its folder or its name.
            data: recording whose episodes' beginnings are used; the one it was trained on when left out. A model that
                comes with loopwm may have none at hand, and then begins with observations of your own.
            split: of the recording.
            settings: fields of `ImaginedTextConfig`, and of `SimulatorConfig`, such as `beam`.

        Raises:
            UserError: no such run or recording, no episode of that split in it, or an unknown setting.
        """
        config = configured(settings)
        folder = folders().get(str(run), Path(run))
        path = Path(data) if data is not None else read_config(folder / "config.yaml").data
        starts: list[TextEpisode] = []
        if folder == Path(run) or data is not None or path.is_file():
            starts = [one for one in read_recording(path)[1] if one.split == split]
            if not starts:
                raise UserError(f"{path} has no episode of the split {split} to begin as; choose another split.")
        return cls(TextSimulator.from_run(run, config.simulator, device), starts, config)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin as one of the starts, drawn with `seed`, or as `options` say.

        Raises:
            UserError: an option that is not known, no start is of that game, or there is no start at all.
        """
        super().reset(seed=seed)
        begun = self._chosen(options or {})
        self._scene = self.simulator.begin(begun.observation, begun.description, begun.initial)
        self._steps = 0
        return self._said(begun.observation), {"game": begun.name, "description": begun.description}

    def _chosen(self, options: dict[str, Any]) -> Beginning:
        unknown = sorted(options.keys() - {"game", "observation", "description", "initial"})
        if unknown:
            raise UserError(f"reset knows the options game, or observation, description and initial, not {unknown[0]}.")
        told = sorted(options.keys() & {"description", "initial"})
        if told and "observation" not in options:
            raise UserError(f"The option {told[0]} goes with an observation of your own; give that as well.")
        if "observation" in options and "game" in options:
            raise UserError("A game of the recording begins with its own observation; give one of the two options.")
        if "observation" in options:
            observation, description, initial = (
                str(options.get(name, "")) for name in ("observation", "description", "initial")
            )
            return Beginning(observation, description, initial)
        if not self.starts:
            raise UserError('There is no recording to begin from; reset with options={"observation": "..."}.')
        start = self.starts[int(self.np_random.integers(len(self.starts)))]
        if "game" in options:
            found = [one for one in self.starts if one.game == options["game"]]
            if not found:
                raise UserError(f"None of the starts is of the game '{options['game']}'.")
            start = found[0]
        initial = start.initial if self.config.initial else ""
        return Beginning(start.observations[0], start.description, initial, name=start.game)

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
        info = {"confidence": answer.confidence, "loops": answer.loops, "continue_probability": answer.goes_on}
        return self._said(answer.observation), answer.reward, terminated, truncated, info

    def _said(self, text: str) -> str:
        return "".join(character for character in " ".join(text.split()) if character in self._characters)[:LONGEST]


def configured(settings: Mapping[str, Any]) -> ImaginedTextConfig:
    """From keyword arguments: fields of `ImaginedTextConfig`, and of the `SimulatorConfig` in it.

    Raises:
        UserError: one is neither.
    """
    whole, inner = ({one.name for one in fields(kind)} for kind in (ImaginedTextConfig, SimulatorConfig))
    unknown = sorted(settings.keys() - whole - inner)
    if unknown:
        raise UserError(f"There is no setting '{unknown[0]}'; choose from {', '.join(sorted(whole | inner))}.")
    config = ImaginedTextConfig(**{name: value for name, value in settings.items() if name in whole})
    simulator = replace(config.simulator, **{name: value for name, value in settings.items() if name in inner})
    return replace(config, simulator=simulator)

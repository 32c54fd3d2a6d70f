"""A game imagined in the terminal: lines in, lines out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loopwm.errors import LoopwmError, UserError
from loopwm.text.recording import read_recording
from loopwm.text.simulator import Answer, Scene, TextSimulator
from loopwm.train.journal import read_config


@dataclass(frozen=True)
class Beginning:
    """How a game begins, and how it went when it was recorded.

    Attributes:
        observation: o_0. description: the task. initial: the complete initial state, or empty.
        world, name: where the game is from, and its name there. title: the same for people.
        actions, observations: a_0 ... and o_1 ..., if it was recorded.
    """

    observation: str
    description: str = ""
    initial: str = ""
    world: str = ""
    name: str = ""
    title: str = ""
    actions: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()


def recorded_beginning(run: Path | str, data: Path | None = None, game: str | None = None) -> Beginning:
    """The recorded game of that name, or else a held-out one, of `data` or of what `run` was trained on.

    Raises:
        UserError: no recording, or no such game in it; near names are suggested.
    """
    settings = Path(run) / "config.yaml"
    if data is None and not settings.is_file():
        raise UserError(f"Nothing was recorded beside {run}; say how a game begins with --observation, or give --data.")
    path = data or read_config(settings).data
    manifest, episodes = read_recording(path)
    held_out = next((one for one in episodes if one.split == "validation"), episodes[0])
    chosen = held_out if game is None else next((one for one in episodes if one.game == game), None)
    if chosen is None:
        near = difflib.get_close_matches(str(game), {one.game for one in episodes}, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it begins with {episodes[0].game}."
        raise UserError(f"There is no game '{game}' in {path}; {hint}")
    return Beginning(
        chosen.observations[0],
        chosen.description,
        chosen.initial,
        manifest.world,
        chosen.game,
        f"{chosen.game} ({chosen.task_type}, {chosen.split})",
        chosen.actions,
        chosen.observations[1:],
    )


Real = Callable[[Sequence[str]], str]


class GameOver(LoopwmError):
    """The real world has no answer to what is done after its end; to what was done before, it still has."""


class Player:
    """Takes lines, and keeps every moment so that it can be gone back to.

    Args:
        against: say what was recorded, while recorded actions are taken, or what `real` answers, and go on from that
            instead of what was imagined.
        initial: show the complete initial state.
        real: all actions so far -> what the real world answers to the last of them, or GameOver; None where there is
            none. Once it fails it is not asked again.
    """

    def __init__(
        self, simulator: TextSimulator, game: Beginning, against: bool, initial: bool, real: Real | None = None
    ) -> None:
        if initial and not game.initial:
            raise UserError(f"The initial state of {game.title or 'this game'} was not recorded; leave --initial out.")
        if against and not game.actions:
            raise UserError("Nothing was recorded to compare with; leave --against-real out.")
        self.game, self.against, self.real = game, against, real
        self.taken: list[str] = []
        begun = simulator.begin(game.observation, game.description, game.initial if initial else "")
        # With each moment whether it is still on the recorded path.
        self.moments: list[tuple[Scene, bool]] = [(begun, True)]

    def opening(self) -> str:
        """What is known at the start."""
        own = self.game
        return "\n".join([*filter(None, (own.title, own.description)), "", own.observation])

    def take(self, line: str) -> str:
        """Act, or go back, and say what happens."""
        if line == "undo":
            if len(self.moments) == 1:
                return "This is the beginning."
            self.moments.pop()
            self.taken.pop()
            return "Back one action."
        scene, recorded = self.moments[-1]
        step = len(self.moments) - 1
        following = self.game.actions[step] if recorded and step < len(self.game.actions) else None
        if not line and following is None:
            return "Nothing was recorded from here on; type an action."
        action = line or str(following)
        try:
            scene, answer = scene.act(action)
        except UserError as error:
            return str(error)
        said = [f"> {action}"] if not line else []
        said += [answer.observation, f"  [{margin(answer)}]"]
        self.taken.append(action)
        recorded = action == following
        if self.against:
            whose, true = ("recorded", self.game.observations[step]) if recorded else ("real", self._asked(said))
            if true is not None:
                same = " ".join(true.split()) == answer.observation
                said += [f"  [as {whose}]" if same else f"  [{whose}: {' '.join(true.split())}]"]
                scene = scene.saw(true)
        self.moments.append((scene, recorded))
        return "\n".join(said)

    def _asked(self, said: list[str]) -> str | None:
        """What the real world answers; that it cannot be asked is added to what is said."""
        if self.real is None:
            return None
        try:
            return self.real(self.taken)
        except GameOver as error:
            said.append(f"  [{error}]")
            return None
        except LoopwmError as error:
            self.real = None
            said.append(f"  [the real world is not asked any more: {error}]")
            return None


def margin(answer: Answer) -> str:
    """What stands beside an answer."""
    loops = "" if answer.loops is None else f"{answer.loops} loop{'s'[: answer.loops != 1]}, "
    return (
        f"{loops}{100 * answer.confidence:.0f}% sure of these words, reward {answer.reward:+.1f}, "
        f"goes on with {100 * answer.goes_on:.0f}%"
    )

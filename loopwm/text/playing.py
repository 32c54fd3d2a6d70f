"""A game imagined in the terminal: lines in, lines out."""

from __future__ import annotations

import difflib
from pathlib import Path

from loopwm.errors import UserError
from loopwm.text.recording import TextEpisode, read_recording
from loopwm.text.simulator import Answer, Scene, TextSimulator
from loopwm.train.journal import read_config


def game_of(run: Path | str, data: Path | None = None, game: str | None = None) -> TextEpisode:
    """The recorded episode that a game begins as: the one of that name, or else a held-out one.

    Raises:
        UserError: no recording, or no such game in it; near names are suggested.
    """
    path = data or read_config(Path(run) / "config.yaml").data
    episodes = read_recording(path)[1]
    if game is None:
        return next((one for one in episodes if one.split == "validation"), episodes[0])
    for one in episodes:
        if one.game == game:
            return one
    near = difflib.get_close_matches(game, {one.game for one in episodes}, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it begins with {episodes[0].game}."
    raise UserError(f"There is no game '{game}' in {path}; {hint}")


class Player:
    """Takes lines, and keeps every moment so that it can be gone back to.

    Args:
        against: while recorded actions are taken, say what was recorded, and go on from that instead of what was
            imagined.
        initial: show the complete initial state.
    """

    def __init__(self, simulator: TextSimulator, episode: TextEpisode, against: bool, initial: bool) -> None:
        if initial and not episode.initial:
            raise UserError(f"The initial state of {episode.game} was not recorded; leave --initial out.")
        self.episode, self.against = episode, against
        begun = simulator.begin(episode.observations[0], episode.description, episode.initial if initial else "")
        # With each moment whether it is still on the recorded path.
        self.moments: list[tuple[Scene, bool]] = [(begun, True)]

    def opening(self) -> str:
        """What is known at the start."""
        own = self.episode
        return f"{own.game} ({own.task_type}, {own.split})\n{own.description}\n\n{own.observations[0]}"

    def take(self, line: str) -> str:
        """Act, or go back, and say what happens."""
        if line == "undo":
            if len(self.moments) == 1:
                return "This is the beginning."
            self.moments.pop()
            return "Back one action."
        scene, recorded = self.moments[-1]
        step = len(self.moments) - 1
        following = self.episode.actions[step] if recorded and step < self.episode.length else None
        if not line and following is None:
            return "Nothing was recorded from here on; type an action."
        action = line or str(following)
        try:
            scene, answer = scene.act(action)
        except UserError as error:
            return str(error)
        said = [f"> {action}"] if not line else []
        said += [answer.observation, f"  [{margin(answer)}]"]
        recorded = action == following
        if recorded and self.against:
            true = self.episode.observations[step + 1]
            same = " ".join(true.split()) == answer.observation
            said += ["  [as recorded]" if same else f"  [recorded: {' '.join(true.split())}]"]
            scene = scene.saw(true)
        self.moments.append((scene, recorded))
        return "\n".join(said)


def margin(answer: Answer) -> str:
    """What stands beside an answer."""
    loops = "" if answer.loops is None else f"{answer.loops} loop{'s'[: answer.loops != 1]}, "
    return (
        f"{loops}{100 * answer.confidence:.0f}% sure of these words, reward {answer.reward:+.1f}, "
        f"goes on with {100 * answer.goes_on:.0f}%"
    )

"""What a recorder needs of a text world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from loopwm.text.recording import TextEpisode


class TextWorld(Protocol):
    """A text world, ready to be played in one process.

    Attributes:
        name: `scienceworld`, `alfworld` or `textworld`.
        packages: distributions whose versions shape the words.
    """

    name: str
    packages: tuple[str, ...]

    def games(self) -> list[str]:
        """Names of all games that the configuration asks for, in a fixed order, such as `train/boil/12`.

        Raises:
            UserError: games or packages are missing.
        """
        ...

    def play(self, game: str, actor: str, seed: int) -> TextEpisode:
        """One episode: a function of its arguments, as far as the world itself is one.

        Args:
            game: one of `games()`. actor: `gold`, `noisy`, ... as the world knows them.

        Raises:
            LoopwmError: the game could not be played, in a sentence.
        """
        ...

    def replay(self, game: str, actions: Sequence[str]) -> list[str]:
        """What the world answers when a recorded game is played from its beginning in another way.

        Args:
            game: as episodes are called, `TextEpisode.game`. actions: any texts.

        Raises:
            LoopwmError: the game is not there, or could not be played.
        """
        ...

    def close(self) -> None:
        """Give back processes and files; twice does no harm."""
        ...

"""What a recorder needs of a text world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from loopwm.errors import UserError
from loopwm.text.recording import SPLITS, TextEpisode


class TextWorld(Protocol):
    """A text world, ready to be played in one process.

    Attributes:
        name: `scienceworld`, `alfworld` or `textworld`.
        packages: distributions whose versions shape the words.
        patience: seconds that an episode may take; who takes longer hangs, and is ended from outside.
    """

    name: str
    packages: tuple[str, ...]
    patience: float

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
            Missing: no game can be played so.
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


def check_sample(config: Any) -> None:
    """Refuse counts of games, shares of random actions and a patience that no recording can have.

    Args:
        config: of any text world; has `train`, `validation`, `test`, `noise` and `patience`.

    Raises:
        UserError: a count is negative or all are 0, `noise` is not in [0, 1), or `patience` not positive.
    """
    for split in SPLITS:
        if getattr(config, split) < 0:
            raise UserError(f"{split} must not be negative, got {getattr(config, split)}.")
    if not any(getattr(config, split) for split in SPLITS):
        raise UserError("There is nothing to record: train, validation and test are all 0.")
    if not 0 <= config.noise < 1:
        raise UserError(f"noise must be in [0, 1), got {config.noise}: at times the way to the goal has to be taken.")
    if not config.patience > 0:
        raise UserError(f"patience must be positive, got {config.patience}.")

"""Random actions of those that are possible."""

from __future__ import annotations

import random
from collections.abc import Sequence


def any_command(commands: Sequence[str], choice: random.Random) -> str:
    """One of the commands: first a kind of them, by the first word, then one of the kind.

    Most of what is possible in a room is of one kind, such as going to one of thirty places; drawn without regard to
    kinds, the others would hardly occur.
    """
    kind = choice.choice(sorted({command.split()[0] for command in commands}))
    return choice.choice([command for command in commands if command.split()[0] == kind])

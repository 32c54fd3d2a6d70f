"""Walks through a room of ALFWorld, and windows of them."""

from __future__ import annotations

from loopwm.text.benchmark.windows import Context, Window
from loopwm.text.recording import TextEpisode

CLOSED, SHELF = "The drawer 1 is closed.", "On the shelf 1, you see a cd 2, and a pen 1."
OPENED = "You open the drawer 1. The drawer 1 is open. In it, you see a key 3."
KITCHEN = "This room is called the kitchen. In it, you see: \n\ta stove"


def visit(number: int, split: str, task_type: str = "pick") -> TextEpisode:
    """A walk through a room of ALFWorld that depends a little on its number."""
    key = f"key {number % 3 + 1}"
    inside = f"You open the drawer 1. The drawer 1 is open. In it, you see a {key}."
    turns = [
        ("go to drawer 1", CLOSED),
        ("open drawer 1", inside),
        (f"take {key} from drawer 1", f"You pick up the {key} from the drawer 1."),
        ("close drawer 1", "You close the drawer 1."),
        ("go to shelf 1", f"On the shelf 1, you see a cd {number % 5 + 1}, and a pen 1."),
        (f"put {key} in/on shelf 1", f"You put the {key} in/on the shelf 1."),
        ("go to drawer 1", CLOSED),
        ("go to shelf 1", f"On the shelf 1, you see a cd {number % 5 + 1}, a {key}, and a pen 1."),
    ]
    return TextEpisode(
        observations=("You are in the middle of a room.", *(answer for _, answer in turns)),
        actions=tuple(action for action, _ in turns),
        scores=(0.0,) * 9,
        terminated=True,
        game=f"{task_type}/{number}",
        task_type=task_type,
        split=split,
        actor="expert",
        description="Your task is to: put a key on the shelf.",
    )


def window(*turns: tuple[str, str], start: str = "You are in a room.", initial: str = "") -> Window:
    """A window whose context is these turns; actions and targets do not matter."""
    context = Context("", (start, *(answer for _, answer in turns)), tuple(action for action, _ in turns), initial)
    return Window(0, 0, "g", "t", context, (), ())

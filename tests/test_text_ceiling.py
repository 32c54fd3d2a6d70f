"""What cannot be known from what a track shows."""

from __future__ import annotations

import pytest
from visits import CLOSED, KITCHEN, OPENED, SHELF, visit, window

from loopwm.text.benchmark.ceiling import COLUMNS, cause_of, unknowable
from loopwm.text.benchmark.lexicon import load_lexicon
from loopwm.text.benchmark.windows import Window, WindowConfig, sample_windows

READ = "the thermometer measures a temperature of {} degrees celsius"


@pytest.mark.parametrize(
    ("action", "target", "view", "cause"),
    [
        ("look around", KITCHEN, window(), "first look"),
        ("look around", KITCHEN, window(start=KITCHEN), ""),
        ("go to shelf 1", SHELF, window(), "first look"),
        ("go to shelf 1", SHELF, window(("go to shelf 1", SHELF)), ""),
        ("go to shelf 1", SHELF, window(("go to shelf 2", SHELF.replace("1,", "2,"))), "first look"),
        ("go to drawer 1", CLOSED, window(), "first look"),
        # It was seen closed: what is in it was not.
        ("open drawer 1", OPENED, window(("go to drawer 1", CLOSED)), "first look"),
        ("open drawer 1", OPENED, window(("open drawer 1", OPENED)), ""),
        ("go to shelf 1", SHELF, window(initial=SHELF), ""),
        ("use thermometer in inventory on lead", READ.format(9), window(), "first reading"),
        (
            "use thermometer in inventory on liquid lead",
            READ.format(9),
            window(("use thermometer in inventory on lead", READ.format(8))),
            "",
        ),
        (
            "use thermometer in inventory on soap",
            READ.format(9),
            window(("use thermometer in inventory on lead", READ.format(8)), initial="everything"),
            "first reading",
        ),
        # On the track `markov` nothing says what was done before what is seen: the same words tell.
        ("use thermometer on lead", READ.format(9), window(start=READ.format(8)), ""),
        ("use thermometer on lead", READ.format(9), window(start="a 5% down the plane"), "first reading"),
        ("examine tin cup", "a tin cup (containing bread, red jam)", window(), "first contents"),
        ("examine tin cup", "a tin cup (containing nothing)", window(), ""),
        ("go to kitchen", "You move to the kitchen.", window(), ""),
        ("take key 3 from drawer 1", "You pick up the key 3 from the drawer 1.", window(), ""),
    ],
)
def test_what_is_shown_for_the_first_time_has_a_cause(action: str, target: str, view: Window, cause: str):
    assert cause_of(action, target, view, load_lexicon("alfworld")) == cause


JUICE = "Inside the fridge is: a wood cup (containing orange juice)."


@pytest.mark.parametrize(
    ("view", "done", "cause"),
    [
        # The initial state of ScienceWorld shows no closed container from inside.
        (window(initial="a fridge. The fridge door is closed."), (), "first contents"),
        (window(initial="a fridge. In the fridge is: a wood cup (containing orange juice)."), (), ""),
        (window(("open fridge", "The fridge is now open."), initial="a fridge, a wood cup, orange juice"), (), ""),
        (window(initial="a fridge, a wood cup"), ("pour orange juice into sink",), ""),
        (window(("look in fridge", JUICE), initial="a fridge. The fridge door is closed."), (), ""),
    ],
)  # fmt: skip
def test_with_the_initial_state_only_what_it_does_not_name_is_shown_for_the_first_time(
    view: Window, done: tuple[str, ...], cause: str
):
    assert cause_of("look in fridge", JUICE, view, load_lexicon("scienceworld"), done) == cause


def test_what_is_usual_is_no_ceiling_and_what_is_new_is():
    training, names = [visit(k, "train") for k in (0, 5, 10)], load_lexicon("alfworld")
    usual, other = (sample_windows([visit(k, "validation")], WindowConfig(per_type=0))[:1] for k in (15, 16))
    columns = dict(zip(COLUMNS, unknowable(usual, training, names)[0, 4], strict=True))
    # The fifth action is a first look at the shelf; there was always cd 1 in training, and now again.
    assert (columns["first look"], columns["unusual"], columns["novel"]) == (1.0, 0.0, 0.0)
    columns = dict(zip(COLUMNS, unknowable(other, training, names)[0, 4], strict=True))
    assert (columns["first look"], columns["unusual first look"], columns["unusual"], columns["novel"]) == (1, 1, 1, 1)

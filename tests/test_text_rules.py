"""Rules see what the track shows, and say what their descriptions promise."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.errors import UserError
from loopwm.text.benchmark.candidates import (
    copy,
    edited,
    habit_here,
    linear,
    recall,
    recall_here,
    situations,
    template,
    template_about,
    template_after,
    template_again,
    trend,
    with_element,
    without_element,
)
from loopwm.text.benchmark.habits import Habits, MostFrequent
from loopwm.text.benchmark.patterns import (
    extrapolated,
    filled,
    numbers,
    opening,
    pattern,
    read_action,
    with_numbers,
    without_numbers,
)
from loopwm.text.benchmark.rules import SYSTEMS, Rules, RulesConfig
from loopwm.text.benchmark.windows import TRACKS, Context, WindowConfig, sample_windows
from loopwm.text.recording import TextEpisode

KITCHEN = (
    "This room is called the kitchen. In it, you see: \n\tthe agent\n\ta metal pot (containing nothing)\n\ta stove"
)
HALLWAY = "This room is called the hallway. In it, you see: \n\tthe agent\n\ta painting"
OPENED, ALREADY = "The door is now open.", "The door is already open."


def played(*turns: tuple[str, str], start: str = KITCHEN, game: str = "g/1", split: str = "train") -> TextEpisode:
    """An episode of these actions and answers."""
    return TextEpisode(
        observations=(start, *(answer for _, answer in turns)),
        actions=tuple(action for action, _ in turns),
        scores=(0.0,) * (len(turns) + 1),
        terminated=True,
        game=game,
        task_type="Incline",
        split=split,
        actor="gold",
        description="Your task is to compare inclined plane H with inclined plane B.",
    )


def slide(speed: int, plane: str, steps: int = 14, game: str = "g/1", split: str = "train") -> TextEpisode:
    """A block on its way down, as ScienceWorld tells it."""
    look = f"look at inclined plane {plane.lower()}"
    turns = [("activate stopwatch", "The stopwatch is now activated.")]
    for step in range(1, steps + 1):
        where = f"approximately {speed * step}% down" if speed * step <= 100 else "at the bottom of"
        turns.append((look, f"an inclined plane {plane}, with: a steel block {where} the plane"))
    return played(*turns, game=game, split=split)


TRAINING = [
    played(("open door to hallway", OPENED), ("go to hallway", "You move to the hallway."), ("look around", HALLWAY)),
    played(
        ("open door to hallway", OPENED),
        ("go to hallway", "You move to the hallway."),
        ("open door to hallway", ALREADY),
        ("look around", HALLWAY),
        ("move soap to metal pot", "You move the soap to the metal pot."),
        ("move lead to stove", "You move the lead to the stove."),
        ("go to kitchen", "You move to the kitchen."),
        ("look around", KITCHEN),
        ("look around", KITCHEN),
        ("open cupboard", "The cupboard is now open."),
        ("open fridge", "The fridge is now open."),
    ),
    slide(5, "A", 25),
    slide(9, "B"),
]


def asked(
    rule, action: str, *before: tuple[str, str], start: str = KITCHEN, between: tuple[str, ...] = ()
) -> str | None:
    """What a rule says about an action, after these turns and then these actions without known answers."""
    context = Context(
        "Your task is to compare inclined plane H with inclined plane B.",
        (start, *(answer for _, answer in before)),
        tuple(one for one, _ in before),
    )
    return rule(situations(Habits(TRAINING), context, [*between, action])[-1])


@pytest.mark.parametrize(
    ("text", "shape", "arguments"),
    [
        ("look around", "look around", ()),
        ("go to art studio", "go to {0}", ("art studio",)),
        ("move metal pot to stove", "move {0} to {1}", ("metal pot", "stove")),
        ("put cellphone 2 in/on drawer 1", "put {0} in/on {1}", ("cellphone 2", "drawer 1")),
        (
            "connect battery anode to orange wire terminal 1",
            "connect {0} anode to {1} terminal 1",
            ("battery", "orange wire"),
        ),
        ("0", "0", ()),
    ],
)
def test_actions_come_apart_at_their_small_words(text: str, shape: str, arguments: tuple[str, ...]):
    action = read_action(text)
    assert (action.shape, action.arguments, action.verb) == (shape, arguments, text.split()[0])
    assert filled(shape, arguments) == text


def test_patterns_leave_out_arguments_longest_first_and_in_any_case():
    arguments = ("pot", "metal pot 1")
    assert pattern("You move the Pot to the metal pot 1.", arguments) == "You move the {0} to the {1}."
    assert pattern("potato", ("pot",)) == "potato"
    assert filled("You move the {0} to the {1}.", ("lead",)) is None
    assert opening("an inclined plane D, with: a block 8% down", ("inclined plane d",)) == "an {0}, with:"


def test_arguments_are_spelled_as_they_were_read():
    seen = ("which of the planes, inclined plane H or B,",)
    assert filled("an {0}, with: a brick", ("inclined plane h",), seen) == "an inclined plane H, with: a brick"
    assert filled("an {0}, with: a brick", ("inclined plane h",)) == "an inclined plane h, with: a brick"


@given(st.lists(st.integers(-300, 3000), min_size=1, max_size=4))
def test_numbers_leave_a_text_and_come_back(values: list[int]):
    text = ", ".join(f"{value} degrees" for value in values)
    assert numbers(text) == values
    assert with_numbers(without_numbers(text), values) == text


@given(st.integers(-50, 50), st.integers(-9, 9), st.integers(2, 17), st.integers(1, 5))
def test_a_line_is_continued_exactly(start: int, slope: int, points: int, ahead: int):
    readings = [(time, f"it reads {start + slope * time}") for time in range(6)]
    values = extrapolated(readings, 5 + ahead, points)
    assert values == pytest.approx([start + slope * (5 + ahead)])


def test_nothing_is_extrapolated_from_one_reading_another_form_or_no_number():
    assert extrapolated([(0, "it reads 4")], 3, 2) is None
    assert extrapolated([(0, "it reads 4"), (1, "4 of them")], 3, 2) is None
    assert extrapolated([(0, "rubber"), (1, "rubber")], 3, 2) is None
    broken = [(0, "it reads 9"), (1, "gone"), (2, "it reads 4"), (3, "it reads 5")]
    assert extrapolated(broken, 4, 9) == pytest.approx([6])


def test_the_most_frequent_wins_and_among_equals_the_first_in_the_alphabet():
    counts: MostFrequent[str] = MostFrequent()
    assert counts.get("a") is None
    for text in ("x", "b", "c", "c", "b"):
        counts.count("a", text)
    assert counts.get("a") == "b"
    counts.count("a", "c")
    assert counts.get("a") == "c"


def test_a_template_answers_the_same_action_on_other_things():
    assert asked(template, "move ice to fountain") == "You move the ice to the fountain."
    assert asked(template, "dig hole") is None


def test_o_t_is_copied_only_if_it_could_be_the_answer_and_one_is_still_there():
    assert asked(copy, "look around") == KITCHEN
    assert asked(copy, "look around", between=("move ice to fountain",)) == KITCHEN
    assert asked(copy, "look around", between=("go to hallway",)) is None
    assert asked(copy, "move ice to fountain") is None


def test_an_earlier_answer_is_recalled_by_action_or_by_place():
    turns = [("go to hallway", "You move to the hallway."), ("look around", HALLWAY)]
    assert asked(recall, "look around", *turns) == HALLWAY
    assert asked(recall_here, "look around", *turns) == HALLWAY
    assert asked(recall_here, "look around", *turns, between=("go to kitchen",)) == KITCHEN
    assert asked(recall_here, "look around", *turns, between=("go to bathroom",)) is None


def test_what_is_usual_depends_on_the_place():
    assert asked(habit_here, "look around", start="It is dark.", between=("go to hallway",)) == HALLWAY
    assert asked(habit_here, "look around", start="It is dark.", between=("go to kitchen",)) == KITCHEN


def test_an_action_taken_before_is_answered_as_its_kind_is_the_second_time():
    turn = ("open door to hallway", OPENED)
    assert asked(template_again, "open door to hallway", turn) == ALREADY
    assert asked(template_again, "open door to hallway") is None


def test_what_follows_depends_on_the_action_before_and_on_the_latest_about_the_same_thing():
    assert asked(template_after, "open door to foundry", between=("go to foundry",)) == ALREADY
    assert asked(template_about, "open door to foundry", between=("go to foundry", "look around")) == ALREADY


def test_numbers_go_on_along_a_line_until_they_leave_the_range_ever_seen():
    readings = [
        ("look at inclined plane h", f"an inclined plane H, with: a steel block approximately {n}% down the plane")
        for n in (4, 6, 9, 11, 13, 16)
    ]
    look = "look at inclined plane h"
    form = "an inclined plane H, with: a steel block approximately {}% down the plane"
    # Two readings give a slope of 3, the line through all six one of 2.37: in five steps 31, or 28.
    assert asked(linear, look, *readings, between=(look,) * 4) == form.format(31)
    assert asked(trend, look, *readings, between=(look,) * 4) == form.format(28)
    far = asked(trend, look, *readings, between=(look,) * 40)
    assert far == "an inclined plane H, with: a steel block at the bottom of the plane"


def test_a_list_is_brought_up_to_date_with_what_was_taken_and_put():
    shelf = ("go to shelf 1", "On the shelf 1, you see a cd 2, and a pen 1.")
    look = "go to shelf 1"
    assert asked(edited, look, shelf, between=("take cd 2 from shelf 1",)) == "On the shelf 1, you see a pen 1."
    assert asked(edited, look, shelf, between=("put cd 10 in/on shelf 1",)) == (
        "On the shelf 1, you see a cd 10, a cd 2, and a pen 1."
    )
    assert asked(edited, look, shelf, between=("put mug 1 in/on desk 1",)) == shelf[1]
    assert "metal pot" not in str(asked(edited, "look around", between=("pick up metal pot",)))


@given(
    st.sets(st.sampled_from(["bowl 1", "bowl 2", "cd 11", "mug 3", "pen 1"]), max_size=4),
    st.sampled_from(["book 1", "cup 2"]),
)
def test_putting_and_taking_undo_each_other(names: set[str], name: str):
    listing = "On the desk 1, you see nothing."
    for one in sorted(names):
        listing = with_element(listing, one)
    assert all(f"a {one}" in listing for one in names)
    assert without_element(with_element(listing, name), name) == listing


@pytest.fixture(scope="module")
def slides() -> list[TextEpisode]:
    """Blocks at many speeds on many planes; some of them held out."""
    rng = random.Random(3)
    return [
        slide(
            rng.randint(3, 9), "ABCDEFGH"[k % 8], rng.randint(8, 20), f"slide/{k}", "validation" if k < 8 else "train"
        )
        for k in range(48)
    ]


def em(rules: Rules, episodes: list[TextEpisode], track: str) -> float:
    """Exact matches at the last step."""
    windows = sample_windows(episodes, WindowConfig(track=track))
    answers = rules.predict(windows)
    return sum(a[-1] == w.targets[-1] for a, w in zip(answers, windows, strict=True)) / len(windows)


def test_with_history_blocks_are_followed_and_without_they_are_not(slides: list[TextEpisode]):
    with_history = em(Rules(slides, TRACKS["history"], RulesConfig("history")), slides, "history")
    without = em(Rules(slides, TRACKS["markov"], RulesConfig("templates")), slides, "markov")
    assert with_history > 0.7
    assert without < 0.4


def test_every_system_answers_every_step_whatever_it_is_asked(slides: list[TextEpisode]):
    unknown = Context("", ("Something never seen.",), ())
    for name in SYSTEMS:
        rules = Rules(slides, TRACKS["history"], RulesConfig(name, per_type=50))
        answers = rules.predict_one(unknown, ["dance", "look at inclined plane z", "", "look", "go to {0}"])
        assert len(answers) == 5
        assert all(isinstance(answer, str) for answer in answers)


def test_predictions_depend_on_nothing_but_context_and_actions(slides: list[TextEpisode]):
    rules = Rules(slides, TRACKS["history"], RulesConfig("all rules", per_type=50))
    windows = sample_windows(slides, WindowConfig(per_type=30))
    blind = [replace(window, targets=("?",) * 5, game="?", task_type="?") for window in windows]
    assert rules.predict(windows) == rules.predict(blind)


def test_held_out_episodes_teach_the_rules_nothing(slides: list[TextEpisode]):
    windows = sample_windows(slides, WindowConfig(per_type=30))
    seen = Rules(slides, TRACKS["history"], RulesConfig("all rules", per_type=50)).predict(windows)
    only = [episode for episode in slides if episode.split == "train"]
    assert Rules(only, TRACKS["history"], RulesConfig("all rules", per_type=50)).predict(windows) == seen


def test_rules_without_training_episodes_or_of_an_unknown_system_are_refused(slides: list[TextEpisode]):
    with pytest.raises(UserError, match="of which there are 0; record at least two"):
        Rules(slides[:8], TRACKS["history"])
    with pytest.raises(UserError, match="no system of rules 'best'; choose one of last action, templates"):
        RulesConfig("best")

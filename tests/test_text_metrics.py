"""Metrics agree with their references, on real sentences of both environments."""

from __future__ import annotations

import builtins
import random
import re
import string
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.errors import UserError
from loopwm.text.benchmark.lexicon import Lexicon, load_lexicon
from loopwm.text.benchmark.listings import normalised, unordered
from loopwm.text.benchmark.metrics import METRICS, Scorer, exact_match, overlap

sacrebleu = pytest.importorskip("sacrebleu", reason="BLEU is sacrebleu's")

ROOM = (
    "This room is called the workshop. In it, you see: \n\tthe agent\n\ta substance called air\n\ta table. On the "
    "table is: a battery, a black wire, a green light bulb, which is off, a switch, which is off.\n\ta bowl "
    "(containing a red apple, a banana)\nYou also see:\n\tA door to the hallway (that is closed)\n\tA door to the "
    "kitchen (that is open)"
)
SAME_ROOM = (
    "This room is called the workshop. In it, you see: \n\ta bowl (containing a banana, a red apple)\n\ta substance "
    "called air\n\tthe agent\n\ta table. On the table is: a switch, which is off, a black wire, a green light bulb, "
    "which is off, a battery.\nYou also see:\n\tA door to the kitchen (that is open)\n\tA door to the hallway (that is "
    "closed)"
)
POT = (
    "a flower pot 2 (containing a lemon tree in the reproducing stage. On the lemon tree you see: a flower, a lemon. , "
    "soil, a jug (containing nothing))"
)
SAME_POT = (
    "a flower pot 2 (containing soil, a jug (containing nothing), a lemon tree in the reproducing stage. On the lemon "
    "tree you see: a lemon, a flower. )"
)
SHELF = "On the dresser 1, you see a cd 2, a desklamp 1, and a watch 1."
SENTENCES = [
    ROOM,
    SAME_ROOM,
    POT,
    SHELF,
    "You move to the kitchen.",
    "The door is already open.",
    "an inclined plane with a rubber surface, with: a steel block approximately 41% down the plane",
    "an inclined plane D, with: a steel block approximately 8% down the plane",
    "the thermometer measures a temperature of 107 degrees celsius",
    "You open the drawer 10. The drawer 10 is open. In it, you see a keychain 3, and a keychain 2.",
    "Nothing happens.",
    "rubber",
    "You put the cellphone 2 in/on the drawer 1.",
]
WORDS = st.lists(
    st.sampled_from(["a", "the", "bowl", "pot", "41%", "door,", "open.", "Kitchen", "(containing", "nothing)"]),
    max_size=9,
)


def squad_reference(prediction: str, truth: str) -> float:
    """Token F1 after the description of SQuAD 2.0's evaluation, step by step and without this package's code."""

    def prepared(text: str) -> list[str]:
        text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return " ".join(word for word in text.split() if word not in {"a", "an", "the"}).split()

    mine, theirs = prepared(prediction), prepared(truth)
    if not mine or not theirs:
        return float(mine == theirs)
    left = list(theirs)
    hits = 0
    for word in mine:
        if word in left:
            left.remove(word)
            hits += 1
    if hits == 0:
        return 0.0
    precision, recall = hits / len(mine), hits / len(theirs)
    return 2 * precision * recall / (precision + recall)


def scored(metric: str) -> Callable[[str, str], float]:
    """One metric of the benchmark."""
    scorer = Scorer(load_lexicon("scienceworld"))
    return lambda predicted, target: scorer.score(predicted, target)[METRICS.index(metric)]


unordered_match, token_f1 = scored("em_unordered"), scored("token_f1")


@pytest.mark.parametrize("predicted", SENTENCES)
@pytest.mark.parametrize("target", SENTENCES)
def test_token_f1_is_squads(predicted: str, target: str):
    assert token_f1(predicted, target) == pytest.approx(squad_reference(predicted, target))


@given(WORDS, WORDS)
def test_token_f1_is_squads_on_any_words(predicted: list[str], target: list[str]):
    pair = " ".join(predicted), " ".join(target)
    assert token_f1(*pair) == pytest.approx(squad_reference(*pair))


def test_known_values_of_token_f1():
    # kitchen and move of {you, move, to, kitchen} and {you, move, to, hallway}: 3 of 4 words in common.
    assert token_f1("You move to the kitchen.", "You move to the hallway.") == pytest.approx(3 / 4)
    # Multisets: one of two in the prediction counts; 2 * 1 / (1 + 2).
    assert token_f1("keychain", "a keychain, keychain") == pytest.approx(2 / 3)
    assert token_f1("", "") == token_f1("The", "a") == 1.0
    assert token_f1("", "door") == 0.0


@pytest.mark.parametrize("predicted", SENTENCES)
@pytest.mark.parametrize("target", SENTENCES)
def test_both_bleus_are_sacrebleus(predicted: str, target: str):
    scores = dict(zip(METRICS, Scorer(load_lexicon("alfworld")).score(predicted, target), strict=True))
    pair = normalised(predicted), [normalised(target)]
    effective = sacrebleu.sentence_bleu(*pair, use_effective_order=True).score / 100
    plain = sacrebleu.sentence_bleu(*pair, use_effective_order=False).score / 100
    assert scores["bleu4"] == pytest.approx(min(effective, 1))
    assert scores["bleu4_plain"] == pytest.approx(min(plain, 1))


def test_plain_bleu_gives_nothing_for_a_short_text_that_is_right():
    scores = dict(zip(METRICS, Scorer(load_lexicon("scienceworld")).score("rubber", "rubber"), strict=True))
    assert (scores["em"], scores["bleu4"], scores["bleu4_plain"]) == (1.0, pytest.approx(1.0), 0.0)


def test_exact_match_sees_case_and_words_but_not_whitespace():
    assert exact_match("You move\n\tto the  kitchen. ", "You move to the kitchen.") == 1.0
    assert exact_match("inclined plane d", "inclined plane D") == scored("em")("plane d", "plane D") == 0.0
    assert exact_match(ROOM, SAME_ROOM) == 0.0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ROOM, SAME_ROOM),
        (POT, SAME_POT),
        (SHELF, "On the dresser 1, you see a watch 1, a cd 2, and a desklamp 1."),
        (
            "You open the x 1. In it, you see a cd 3, and a cd 2.",
            "You open the x 1. In it, you see a cd 2, and a cd 3.",
        ),
        (
            "Ambiguous request:\n0:\tmove pea (in pot 1)\n1:\tmove seed (in pot 2)\n",
            "Ambiguous request:\n0:\tmove seed (in pot 2)\n1:\tmove pea (in pot 1)\n",
        ),
        (
            "a seed jar (containing a pea seed, a pea, a pea seed)",
            "a seed jar (containing a pea seed, a pea seed, a pea)",
        ),
    ],
)
def test_the_order_within_lists_does_not_count(first: str, second: str):
    assert unordered_match(first, second) == 1.0
    assert exact_match(first, second) == 0.0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a bowl (containing a banana)", "a bowl (containing a banana, a banana)"),
        ("On the table is: a switch, which is off, a lamp.", "On the table is: a lamp, which is off, a switch."),
        ("In it, you see:\n\ta cup\nYou also see:\n\ta door", "In it, you see:\n\ta door\nYou also see:\n\ta cup"),
        (
            "a bowl (containing a pea)\n\ta cup (containing nothing)",
            "a bowl (containing nothing)\n\ta cup (containing a pea)",
        ),
        ("Apples, oranges, and bananas mix.", "Bananas, apples, and oranges mix."),
        ("On the shelf 1, you see a cd 2.", "On the shelf 2, you see a cd 1."),
    ],
)
def test_everything_but_the_order_within_lists_counts(first: str, second: str):
    assert unordered_match(first, second) == 0.0


@given(st.permutations(["a cd 1", "a watch 2", "a pen, which is off", "a bowl (containing a pea, soil)"]))
def test_any_order_of_a_list_sorts_the_same(order: list[str]):
    def shown(elements: list[str]) -> str:
        return f"a table. On the table is: {', '.join(elements)}.\n\ta box (containing {', '.join(elements)})"

    assert unordered(shown(order)) == unordered(shown(sorted(order)))


@given(st.text(max_size=40), st.text(max_size=40))
def test_scores_are_between_0_and_1_and_equal_texts_match(first: str, second: str):
    scorer = Scorer(load_lexicon("scienceworld"))
    both = dict(zip(METRICS, scorer.score(first, second), strict=True))
    assert all(0 <= value <= 1 for value in both.values())
    assert both["em_unordered"] >= both["em"]
    same = dict(zip(METRICS, scorer.score(first, first), strict=True))
    assert all(value == pytest.approx(1) for name, value in same.items() if not name.startswith("bleu"))


def test_a_room_that_is_right_but_for_its_lines_is_right_in_any_order():
    flat = " ".join(ROOM.split())
    assert exact_match(flat, ROOM) == unordered_match(flat, ROOM) == 1.0
    both = dict(zip(METRICS, Scorer(load_lexicon("scienceworld")).score(flat, ROOM), strict=True))
    assert both["em"] == both["em_unordered"] == 1.0


@given(
    st.lists(st.sampled_from([*"ab(),. \n", "\n\t", " is: ", "you see a ", "(containing "]), max_size=30).map("".join)
)
def test_sorting_lists_neither_loses_nor_adds_a_letter(text: str):
    def letters(one: str) -> Counter[str]:
        return Counter(re.sub(r"[\s,]", "", one))

    assert letters(unordered(text)) == letters(text)
    assert unordered(unordered(text)) == unordered(text) or "\n" in text


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_recall_is_the_other_ones_precision(first: list[str], second: list[str]):
    one, two = Counter(first), Counter(second)
    assert overlap(one, two)[0] == pytest.approx(overlap(two, one)[0])
    if one and two:
        precision, recall = overlap(two, one)[1], overlap(one, two)[1]
        harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert overlap(one, two)[0] == pytest.approx(harmonic)


def test_entities_of_scienceworld_are_names_longest_first_and_numbers():
    lexicon = load_lexicon("scienceworld")
    assert lexicon.entities("a steel block approximately 41% down the plane") == ["steel block", "41"]
    assert lexicon.entities("You move the Metal Pot to the stove.") == ["metal pot", "stove"]
    assert lexicon.entities("a flower pot 2 (containing soil)") == ["flower pot 2", "soil"]
    assert lexicon.entities("You decide to wait for 1 iterations.") == ["1"]
    assert lexicon.entities("a wood cup (containing yellow-orange paint)") == ["wood cup", "yellow orange paint"]


def test_entities_of_alfworld_are_names_with_numbers():
    lexicon = load_lexicon("alfworld")
    assert lexicon.entities(SHELF) == ["dresser 1", "cd 2", "desklamp 1", "watch 1"]
    assert lexicon.entities("put some mug on the desk, any of 3") == []


def test_entity_scores_are_of_multisets():
    scorer = Scorer(Lexicon(["pea"], numbered=False))
    scores = dict(zip(METRICS, scorer.score("pea pea 4", "pea 4 5"), strict=True))
    assert (scores["entity_f1"], scores["entity_recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    nothing = dict(zip(METRICS, scorer.score("so", "what"), strict=True))
    assert (nothing["entity_f1"], nothing["entity_recall"]) == (1.0, 1.0)


def test_there_is_no_lexicon_of_an_unknown_world():
    with pytest.raises(UserError, match="'nethack'; choose one of scienceworld, alfworld"):
        load_lexicon("nethack")


def test_a_table_of_scores_wants_as_many_predictions_as_targets():
    scorer = Scorer(load_lexicon("alfworld"))
    assert scorer.table([["a", "b"]], [["a", "c"]]).shape == (1, 2, len(METRICS))
    with pytest.raises(UserError, match="one prediction is needed for every target"):
        scorer.table([["a"]], [["a", "c"]])


def test_without_sacrebleu_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest):
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'pip install "loopwm\[text\]"'):
        Scorer(load_lexicon("alfworld"))


def test_scoring_is_fast_enough_to_be_run_often():
    import time

    rng = random.Random(0)
    pairs = [(f"{rng.choice(SENTENCES)} {rng.randrange(1000)}", rng.choice(SENTENCES)) for _ in range(1000)]
    scorer = Scorer(load_lexicon("scienceworld"))
    began = time.process_time()
    for pair in pairs:
        scorer.score(*pair)
    # Tens of thousands of windows in a minute or two need less than 2 ms a pair, even if no pair came twice.
    assert time.process_time() - began < 2.0

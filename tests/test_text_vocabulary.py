"""Words as tokens: nothing is lost, whatever is written."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from loopwm.cli import main
from loopwm.errors import UserError
from loopwm.text.vocabulary import ESCAPE, INSIDE, SPACE, SPECIAL, Vocabulary, plain

ROOM = "This room is called the workshop. In it, you see:\n\tthe agent\n\ta table. On the table is: a battery, a wire."
VOCABULARY = Vocabulary.of([ROOM, "You move to the kitchen.", "It reads a temperature of 103 degrees celsius."])


def there_and_back(text: str) -> str:
    return VOCABULARY.decode(VOCABULARY.encode([text])[0])


@given(st.text())
def test_any_text_comes_back_but_for_its_white_space(text: str) -> None:
    assert there_and_back(text) == plain(text)


@given(st.text(alphabet=[*"ab0 #", SPACE, ESCAPE, "é", "\n", *INSIDE]))
def test_marks_of_the_vocabulary_itself_come_back_when_somebody_writes_them(text: str) -> None:
    assert there_and_back(text) == plain(text)


@pytest.mark.parametrize("text", ["x" * 5000, "ünïcödé 水", "<end>", "<pad> <unknown>", "\u2582 41 \u2582", "", "   "])
def test_what_no_simulator_ever_says_comes_back(text: str) -> None:
    assert there_and_back(text) == plain(text)


def test_a_word_is_the_same_wherever_it_stands() -> None:
    (first,), (_, second) = VOCABULARY.encode(["workshop", "the workshop"])
    assert first == second


def test_a_known_word_is_one_token_and_keeps_its_case() -> None:
    tokens = VOCABULARY.encode(["You move to the workshop."])[0]
    assert [VOCABULARY.words[token] for token in tokens] == ["▁You", "▁move", "▁to", "▁the", "▁workshop", "."]
    assert VOCABULARY.encode(["you"]) != VOCABULARY.encode(["You"])


def test_numbers_are_digits() -> None:
    tokens = VOCABULARY.encode(["of 1050"])[0]
    assert [VOCABULARY.words[token].strip(SPACE) for token in tokens[1:]] == ["1", "0", "5", "0"]


def test_an_unknown_word_is_spelt() -> None:
    assert [VOCABULARY.words[token][-1] for token in VOCABULARY.encode(["zyzzyva"])[0]] == [*"zyzzyva"]


def test_an_unknown_word_has_nothing_of_a_known_one_that_it_begins_with() -> None:
    vocabulary = Vocabulary.of(["a bee, the ant"])
    tokens = vocabulary.encode(["bee beetle bees, anthill 12"])[0]
    words = [vocabulary.words[token].removeprefix(SPACE).removeprefix(INSIDE) for token in tokens]
    assert words == ["bee", *"beetle", *"bees", ",", *"anthill", "1", "2"]
    # As a window spells a known word out, so an unknown one comes.
    known = vocabulary.words.index(SPACE + "bee")
    assert vocabulary.spelled(known) == vocabulary.encode(["beetle"])[0][:3]


def test_writing_stops_at_the_end() -> None:
    words = VOCABULARY.encode(["You move"])[0]
    assert VOCABULARY.decode([*words, VOCABULARY.index("<end>"), *words]) == "You move"


@given(st.lists(st.integers(0, len(VOCABULARY) - 1)))
def test_any_tokens_are_some_text(tokens: list[int]) -> None:
    text = VOCABULARY.decode(tokens)
    assert text == plain(text)


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts() -> None:
    texts = [f"word{k} says {k}" for k in range(50)]
    shuffled = random.Random(0).sample(texts, len(texts))
    assert Vocabulary.of(texts).words == Vocabulary.of(shuffled).words


def test_rare_words_are_spelt_where_the_vocabulary_is_to_be_small() -> None:
    texts = ["often often", "often", "seldom"]
    small = Vocabulary.of(texts, most=1)
    assert len(small.encode(["often"])[0]) == 1
    assert len(small.encode(["seldom"])[0]) == 6


def test_a_vocabulary_without_its_leading_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="damaged"):
        Vocabulary(("a", *SPECIAL))


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r'tokenizers, which is not .* with pip install "loopwm\[text\]"'):
        Vocabulary.of(["a text"])
    small = Path(__file__).parents[1] / "weights" / "scienceworld-small"
    assert main(["imagine", str(small), "--observation", "You are in the hall."]) == 2
    assert "which is not installed" in capsys.readouterr().err

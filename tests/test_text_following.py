"""A head that copies goes on where the words that it has just written stand in what was seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from loopwm.errors import UserError
from loopwm.model.config import TextConfig
from loopwm.model.text.encoders import BEGIN
from loopwm.model.text.head import Pointer, agreement
from loopwm.model.text.packing import flattened

WORDS = st.lists(st.integers(7, 10), min_size=1, max_size=12)


def told(written: list[int], seen: list[int], i: int, j: int, reach: int) -> float:
    """What agrees before place i of `written` and place j of `seen`, word by word."""
    total, worth = 0.0, 1.0
    first, second = [BEGIN, *written][: i + 1], [BEGIN, *seen][: j + 1]
    for k in range(1, min(reach, len(first)) + 1):
        same = k <= len(second) and first[-k] == second[-k]
        total += worth * same
        worth *= 1.0 if same else 0.5
    return total


@given(WORDS, WORDS, st.integers(1, 6))
@settings(max_examples=60)
def test_agreement_is_counted_word_by_word(written: list[int], seen: list[int], reach: int) -> None:
    first, second = (flattened(torch.tensor([[words]])).before(reach, BEGIN)[None] for words in (written, seen))
    expected = [[told(written, seen, i, j, reach) for j in range(len(seen))] for i in range(len(written))]
    assert agreement(first, second)[0].tolist() == expected


def test_words_before_are_those_of_the_same_text() -> None:
    texts = flattened(torch.tensor([[[7, 8, 9], [10, 0, 0]], [[0, 0, 0], [11, 12, 0]]]))
    assert texts.before(2, BEGIN).tolist() == [[BEGIN, 0], [7, BEGIN], [8, 7], [BEGIN, 0], [BEGIN, 0], [11, BEGIN]]
    assert texts.before(0, BEGIN).shape == (6, 0)
    assert flattened(torch.zeros(1, 2, 3, dtype=torch.long)).before(2, BEGIN).shape == (0, 2)


def test_of_two_lists_the_one_whose_head_was_written_is_followed() -> None:
    """`drawer 3 : a a b` after `drawer 3 : a`: content alone cannot tell which of all the a's comes next."""
    torch.manual_seed(0)
    pointer = Pointer(8, 16, recency=True)
    seen, written = [20, 1, 30, 7, 9, 21, 3, 30, 7, 8, 22, 1, 30, 7, 11], [21, 3, 30, 7, 8]
    seen, written = ([word + 10 for word in words] for words in (seen, written))
    before = [flattened(torch.tensor([[words]])).before(16, BEGIN)[None] for words in (written, seen)]
    same = torch.zeros(1, 5, 8), torch.zeros(1, 15, 8)
    readable = torch.ones(1, 5, 15, dtype=torch.bool)
    weights = pointer.weights(pointer.queries(same[0]), pointer.keys(same[1]), readable, agreement(*before))
    assert weights[0, 1:].argmax(-1).tolist() == [6, 7, 8, 9]
    assert float(pointer.follows(torch.randn(3, 8)).detach().mean()) == pytest.approx(1)


def test_a_negative_reach_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.text\.follow must not be negative, got -1"):
        TextConfig(follow=-1)

"""A head that copies goes on where the words that it has just written stand in what was seen."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from loopwm.errors import UserError
from loopwm.model.config import ModelConfig, TextConfig
from loopwm.model.text.encoders import BEGIN, Memory
from loopwm.model.text.head import TextHead
from loopwm.model.text.packing import flattened
from loopwm.model.text.pointer import Expectation, Pointer, Signs, agreement, headed_alike
from loopwm.spaces import ObservationSpec

SIZES = ModelConfig(width=8, heads=2, mlp_ratio=2, tokens=2)
WORDS = st.lists(st.integers(7, 10), min_size=1, max_size=12)


def signs(agreed: torch.Tensor, alike: torch.Tensor | None = None) -> Signs:
    """Of words all of which were read just now."""
    zeros = torch.zeros_like(agreed)
    return Signs(
        torch.ones_like(agreed, dtype=torch.bool), agreed, zeros if alike is None else alike, zeros, zeros.long()
    )


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
    pointer = Pointer(8, TextConfig(follow=16))
    seen, written = [20, 1, 30, 7, 9, 21, 3, 30, 7, 8, 22, 1, 30, 7, 11], [21, 3, 30, 7, 8]
    seen, written = ([word + 10 for word in words] for words in (seen, written))
    before = [flattened(torch.tensor([[words]])).before(16, BEGIN)[None] for words in (written, seen)]
    same = torch.zeros(1, 5, 8), torch.zeros(1, 15, 8)
    weights = pointer.weights(same[0], pointer.keys(same[1]), signs(agreement(*before)))
    assert weights[0, 1:].argmax(-1).tolist() == [6, 7, 8, 9]
    assert float(pointer.follows(torch.randn(3, 8)).detach().mean()) == pytest.approx(1)


PARTED = flattened(torch.tensor([[[5, 7, 8, 9, 5, 7, 6, 10], [11, 12, 0, 0, 0, 0, 0, 0]]]), openers=(5, 6))


def test_parts_of_a_text_begin_with_what_opens_them() -> None:
    assert PARTED.parts.length.tolist() == [4, 2, 2, 2] and PARTED.layout.length.tolist() == [8, 2]
    assert PARTED.place.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 0, 1]
    assert PARTED.text.tolist() == [0] * 8 + [1] * 2
    # What opens a part stands for the beginning of a text that is being written.
    assert PARTED.before(2, BEGIN)[:4].tolist() == [[BEGIN, 0], [BEGIN, BEGIN], [7, BEGIN], [8, 7]]
    assert PARTED.before(2, BEGIN)[7:].tolist() == [[BEGIN, BEGIN], [BEGIN, 0], [11, BEGIN]]
    assert PARTED.heading(2).tolist() == [[7, 8]] * 4 + [[7, 0]] * 2 + [[10, 0]] * 2 + [[11, 12]] * 2
    whole = flattened(torch.tensor([[[5, 7, 8]]]))
    assert whole.parts is whole.layout and whole.heading(2).tolist() == [[5, 7]] * 3
    assert flattened(torch.zeros(1, 2, 3, dtype=torch.long)).heading(2).shape == (0, 2)


def test_headings_are_alike_if_all_of_their_words_are() -> None:
    heading = torch.tensor([[[7, 8], [7, 9], [7, 0]]])
    remembered = torch.tensor([[[7, 8], [9, 8], [7, 0], [0, 0]]])
    assert headed_alike(heading, remembered)[0].tolist() == [[True, False, False, False], [False] * 4, [False] * 4]


def test_of_two_rooms_the_one_that_is_named_is_gone_on_with() -> None:
    """`kitchen : me air` has been written. The longest agreement is in the hall; the heading decides."""
    torch.manual_seed(0)
    kitchen, hall, is_, me, air, table, mat = range(20, 27)
    seen = flattened(torch.tensor([[[5, hall, is_, me, air, mat, 5, kitchen, is_, air, table]]]), openers=(5,))
    written = flattened(torch.tensor([[[kitchen, is_, me, air]]]))
    agreed = agreement(torch.tensor([[[air, me, is_, kitchen]]]), seen.before(4, BEGIN)[None])
    alike = headed_alike(written.heading(1)[None, :1], seen.heading(1)[None])
    chosen = []
    for heading in (0, 1):
        pointer = Pointer(8, TextConfig(follow=4, heading=heading))
        weights = pointer.weights(torch.zeros(1, 1, 8), torch.zeros(1, 11, 8), signs(agreed, alike))
        chosen.append(int(seen.tokens[weights.argmax()]))
    assert chosen == [mat, table]


def test_a_heading_is_known_once_it_is_written() -> None:
    """Changing a later word of a text changes nothing before it, also where that word is part of the heading."""
    torch.manual_seed(0)
    config = replace(SIZES, text=TextConfig(encoder=1, decoder=1, heading=3))
    names = tuple(f"word {k}" for k in range(40))
    head = TextHead(config, ObservationSpec("text", (6,), names))
    seen = flattened(torch.tensor([[[5, 20, 21, 22, 23, 24]]]), openers=(5,))
    memory = Memory.of(torch.randn(6, 8), seen, config.text)
    one, other = (torch.tensor([[[20, 21, word, 23]]]) for word in (22, 30))
    first, second = (
        head.log_likelihood(torch.zeros(1, 1, 2, 8), text, memory, torch.ones(1, 1)).log_probability
        for text in (one, other)
    )
    assert torch.equal(first[:2], second[:2]) and not torch.isclose(first[3:], second[3:]).any()


def test_what_agrees_further_is_copied_with_more_trust() -> None:
    torch.manual_seed(0)
    pointer, x = Pointer(8, TextConfig(follow=16, trust=True)), torch.randn(3, 8)
    best, most = torch.tensor([[7.0], [4.0], [1.0]]), torch.full((3, 1), 7.0)
    # Nothing is trusted before it is learned.
    assert torch.equal(pointer.share(x, best, most), pointer.copy(x).sigmoid())
    with torch.no_grad():
        pointer.trust.bias.copy_(torch.tensor([0.5, 1.0]))  # type: ignore[union-attr]
    plain = pointer.copy(x)[:, 0]
    logs = [0.5 * math.log(1 + agreed) - math.log(1 + 7 - agreed) for agreed in (7, 4, 1)]
    expected = (plain + torch.tensor(logs)).sigmoid()
    assert torch.allclose(pointer.share(x, best, most)[:, 0], expected)


def test_a_text_that_was_seen_is_copied_and_one_that_was_not_is_not() -> None:
    """`drawer 3 : a mat` was seen; what differs is trusted so little that nothing is copied after another number."""
    torch.manual_seed(0)
    config = replace(SIZES, text=TextConfig(encoder=1, decoder=1, follow=16, trust=True))
    head = TextHead(config, ObservationSpec("text", (5,), tuple(f"word {k}" for k in range(40))))
    memory = Memory.of(torch.randn(5, 8), flattened(torch.tensor([[[20, 13, 30, 31, 32]]])), config.text)

    def likely(text: list[int], differs: float, copy: float = 0.0) -> torch.Tensor:
        assert head.pointer.trust is not None
        with torch.no_grad():
            head.pointer.copy.bias.fill_(copy)
            head.pointer.trust.bias.copy_(torch.tensor([0.0, differs]))
            words = torch.tensor([[text]])
            return head.log_likelihood(torch.zeros(1, 1, 2, 8), words, memory, torch.ones(1, 1)).log_probability

    seen, unseen = [20, 13, 30, 31, 32], [20, 14, 30, 31, 32]
    # Nothing that was seen goes on where the text ends: the end is no word to copy.
    assert torch.equal(likely(seen, 0.0)[:5], likely(seen, 50.0)[:5]) and likely(seen, 50.0)[5] > likely(seen, 0.0)[5]
    assert torch.allclose(likely(unseen, 50.0)[2:], likely(unseen, 0.0, copy=-100.0)[2:], atol=1e-5)
    assert (likely(unseen, 0.0)[2:5] > likely(unseen, 50.0)[2:5]).all()
    assert torch.equal(likely(unseen, 50.0)[:2], likely(unseen, 0.0)[:2])


def test_what_is_expected_is_what_stands_where_the_words_before_agree() -> None:
    """`mat : pen` is being written, and `mat : pen 1` and `sofa : cup 1` were seen: `1` behind the pen comes next."""
    mat, sofa, is_, pen, cup, one = range(20, 26)
    seen = flattened(torch.tensor([[[mat, is_, pen, one], [sofa, is_, cup, one]]]))
    agreed = agreement(torch.tensor([[[pen, is_, mat, BEGIN]]]), seen.before(4, BEGIN)[None])
    expectation = Expectation(8, TextConfig())
    with torch.no_grad():
        expectation.told.weight.copy_(torch.eye(8))
        expectation.agree.fill_(10.0)
        told = expectation(torch.eye(8)[None], signs(agreed))
    assert told[0, 0].argmax() == 3 and float(told[0, 0, 3]) > 0.99


def test_what_is_expected_is_in_a_part_that_begins_alike_though_more_agrees_elsewhere() -> None:
    """Of three words, one in a part that begins like the text, and one where all words before agree."""
    agreed, alike = torch.tensor([[[2.0, 16.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
    expectation = Expectation(8, TextConfig())
    with torch.no_grad():
        expectation.told.weight.copy_(torch.eye(8))
        told = expectation(torch.eye(8)[None, :3], signs(agreed, alike))
    assert told[0, 0].argmax() == 0 and float(told[0, 0, 0]) > 0.8


def test_of_what_nothing_agrees_with_nothing_is_expected() -> None:
    expectation = Expectation(8, TextConfig())
    with torch.no_grad():
        expectation.nothing.fill_(100.0)
        told = expectation(torch.randn(1, 5, 8), signs(torch.zeros(1, 2, 5)))
    assert float(told.abs().max()) < 1e-6


@pytest.mark.parametrize(("switch", "why"), [("trust", "rests on words"), ("expect", "goes on with words")])
def test_what_needs_words_that_agree_is_refused_without(switch: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"model\.text\.{switch} {why} that agree"):
        TextConfig(follow=0, **{switch: True})  # type: ignore[arg-type]


def test_a_negative_reach_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.text\.follow must not be negative, got -1"):
        TextConfig(follow=-1)
    with pytest.raises(UserError, match=r"model\.text\.heading must not be negative, got -1"):
        TextConfig(heading=-1)


@pytest.mark.parametrize("name", ["trust", "touched", "expect"])
def test_what_only_a_copying_head_can_be_told_is_refused_where_nothing_is_copied(name: str) -> None:
    assert getattr(TextConfig(head="copy", **{name: True}), name)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"model\.text\.{name} is for model\.text\.head copy"):
        TextConfig(head="bottleneck", **{name: True})  # type: ignore[arg-type]

"""A head that copies may repeat that a text ends where one that was seen did."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from toy_model import CORPUS, COUNTING, make

from loopwm.errors import UserError
from loopwm.model.config import TextConfig
from loopwm.model.text.encoders import BEGIN, END, Memory, remembered
from loopwm.model.text.head import TextHead
from loopwm.model.text.packing import flattened
from loopwm.model.text.under_way import UnderWay
from loopwm.text.corpus import text_windows
from loopwm.train.text import unrolled

OPENER = 4


def test_every_part_of_what_was_seen_has_an_end() -> None:
    """Two windows: a text in two parts and one without words; a text of one part and another."""
    tokens = torch.tensor([[[OPENER, 10, 11, OPENER, 12], [0] * 5], [[13, 14, 0, 0, 0], [15, 0, 0, 0, 0]]])
    texts = flattened(tokens, openers=(OPENER,))
    states, end = torch.randn(len(texts.tokens), 8), torch.randn(8)
    config = TextConfig(follow=3, heading=1, touched=True)
    plain, ended = (Memory.of(states, texts, config, end=one) for one in (None, end))
    assert ended.tokens.tolist() == [OPENER, 10, 11, END, OPENER, 12, END, 13, 14, END, 15, END]
    assert ended.window.tolist() == [7, 5] and plain.window.tolist() == [5, 3]
    assert ended.step.tolist() == [0] * 10 + [1] * 2
    said = ended.tokens == END
    assert ended.before[said].tolist() == [[11, 10, BEGIN], [12, BEGIN, BEGIN], [14, 13, BEGIN], [15, BEGIN, 0]]
    assert ended.heading[said].tolist() == [[10], [12], [13], [15]]
    assert ended.near[said].tolist() == [[11, 0, 0], [12, 0, 0], [14, 0, 0], [15, 0, 0]]
    assert torch.equal(ended.states[said], states[[2, 4, 6, 7]] + end)
    for part in ("states", "tokens", "step", "before", "heading", "near", "done", "line"):
        assert torch.equal(getattr(ended, part)[~said], getattr(plain, part))


def test_a_word_alone_has_nothing_before_it_but_the_beginning() -> None:
    texts = flattened(torch.tensor([[[OPENER, 0]]]), openers=(OPENER,))
    ended = Memory.of(torch.randn(1, 8), texts, TextConfig(follow=2), end=torch.zeros(8))
    assert ended.tokens.tolist() == [OPENER, END] and ended.before[1].tolist() == [BEGIN, BEGIN]


@torch.no_grad()
def test_actions_have_none_and_what_was_told_is_read_without_them() -> None:
    windows = text_windows(CORPUS, np.array([8, 6]), np.array([4, 0]), 5, np.array([True, False]))
    seen = torch.ones(2, 5, dtype=torch.bool)
    plain, ended = (unrolled(make(guided=one), windows, seen).memory for one in (False, True))
    assert (ended.tokens == END).any() and not (ended.done & (ended.tokens == END)).any()
    assert not (ended.line > 0).any() and remembered(ended) == remembered(plain)


@torch.no_grad()
def test_guesses_go_to_the_end_of_the_text_that_they_are_from() -> None:
    model = make(guided=True)
    windows, head = text_windows(COUNTING, np.array([0]), np.array([0]), 7), model.observation_head
    assert isinstance(head, TextHead)
    found = unrolled(model, windows, torch.tensor([[True, True, True] + [False] * 4]))
    text = [word for word in windows.observations[0, 2].tolist() if word]
    under_way = UnderWay(head, found.latents[:, 2], found.memory, torch.tensor([2]))
    under_way.next(torch.tensor([[[BEGIN, *text[:2]]]]))
    assert under_way.guess(text[2], 100) == [*text[3:], END]
    assert under_way.guess(text[2], 1) == text[3:4]


@torch.no_grad()
@pytest.mark.parametrize("ends", [True, False])
def test_a_head_that_can_only_copy_ends_where_ends_are_to_be_copied(ends: bool) -> None:
    """Of a model that has learned nothing but to copy what was read, here one and the same text."""
    model = make(guided=True)
    head = model.observation_head
    assert isinstance(head, TextHead)
    for layer, bias in ((head.pointer.copy, 30.0), (head.pointer.trust, 0.0), (head.pointer.touched, 0.0)):
        assert layer is not None
        layer.weight.zero_()
        layer.bias.fill_(bias)
    head.pointer.sharpness.zero_()
    head.pointer.follow.weight.zero_()
    head.pointer.follow.bias.fill_(5.0)
    if not ends:
        model.encoder._parameters["end"] = None
    windows = text_windows(COUNTING, np.array([0]), np.array([0]), 7)
    found = unrolled(model, windows, torch.tensor([[True, True, True] + [False] * 4]))
    text = [word for word in windows.observations[0, 2].tolist() if word]
    under_way = UnderWay(head, found.latents[:, 2], found.memory, torch.tensor([2]))
    chances = under_way.next(torch.tensor([[[BEGIN, *text]]]))[0, 0]
    assert all(float(chance[word]) > 0.9 for chance, word in zip(chances[1:], text[1:], strict=False))
    assert float(chances[-1, END]) > 0.9 if ends else float(chances[-1, END]) < 0.1


def test_ends_without_a_head_that_copies_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.text\.ends are there to be repeated; .* must be copy"):
        TextConfig(head="bottleneck", ends=True)

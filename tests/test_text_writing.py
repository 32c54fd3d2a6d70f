"""What a text head writes: exactly what is likeliest, whichever way it is written."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from toy_model import CORPUS, EVERYTHING, SMALL, make, sample

from loopwm.errors import UserError
from loopwm.model.config import TextConfig
from loopwm.model.text.encoders import BEGIN, END, Memory
from loopwm.model.text.head import TextHead
from loopwm.model.text.under_way import UnderWay
from loopwm.model.text.writing import write
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ObservationSpec
from loopwm.text.vocabulary import SPECIAL
from loopwm.train.text import unrolled


@pytest.fixture(params=[*EVERYTHING, "guided"])
def model(request: pytest.FixtureRequest) -> WorldModel:
    return make(guided=True) if request.param == "guided" else make(request.param)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3])
def test_what_is_written_is_as_likely_as_it_says(model: WorldModel, beam: int) -> None:
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    found, head = unrolled(model, windows, visible), model.observation_head
    assert isinstance(head, TextHead)
    said = write(head, found.latents[:, 4], found.memory, torch.full((6,), windows.past + 4), beam=beam, longest=12)
    targets = torch.zeros(6, 5, said.tokens.shape[1], dtype=torch.long)
    targets[:, 4] = said.tokens
    valid = torch.zeros(6, 5)
    valid[:, 4] = 1
    scored = head.log_likelihood(found.latents, targets, found.memory, valid, windows.past)
    per_text = scored.per_text()[:, 4]
    for row in range(6):
        expected = float(per_text[row])
        if int((said.tokens[row] != 0).sum()) == 12:
            # Cut off: its end was never written, and is no part of what it says.
            own = (scored.texts.text == 5 * row + 4).nonzero()[-1]
            expected -= float(scored.log_probability[own])
        assert float(said.log_probability[row]) == pytest.approx(expected, abs=2e-3)


@torch.no_grad()
def test_greedy_takes_the_likeliest_word_every_time(model: WorldModel) -> None:
    windows, visible = sample(batch=2), torch.ones(2, 5, dtype=torch.bool)
    found, head = unrolled(model, windows, visible), model.observation_head
    assert isinstance(head, TextHead)
    said = write(head, found.latents[:, 4], found.memory, torch.full((2,), windows.past + 4), longest=4).tokens
    for place, word in itertools.product(range(min(3, said.shape[1])), range(7, len(CORPUS.vocabulary), 9)):
        other = torch.zeros(2, 5, place + 1, dtype=torch.long)
        other[:, 4] = said[:, : place + 1]
        valid = torch.zeros(2, 5)
        valid[:, 4] = 1
        best = head.log_likelihood(found.latents, other, found.memory, valid, windows.past)
        other[:, 4, place] = word
        worse = head.log_likelihood(found.latents, other, found.memory, valid, windows.past)
        here = best.texts.place == place
        if (said[:, place] != 0).all():
            assert (best.log_probability[here] >= worse.log_probability[worse.texts.place == place] - 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize(
    ("head", "follow", "guided"),
    [("copy", 16, False), ("copy", 16, True), ("copy", 0, False), ("bottleneck", 0, False)],
)
def test_a_single_text_is_written_as_among_others(head: str, follow: int, guided: bool) -> None:
    model = make(head, follow, guided)
    windows, visible = sample(batch=8), torch.ones(8, 5, dtype=torch.bool)
    found, decoder = unrolled(model, windows, visible), model.observation_head
    assert isinstance(decoder, TextHead)
    step = torch.full((8,), windows.past + 4)
    together = write(decoder, found.latents[:, 4], found.memory, step, longest=20)
    begin = (found.memory.window.cumsum(0) - found.memory.window).tolist()
    for row, (first, count) in enumerate(zip(begin, found.memory.window.tolist(), strict=True)):
        own = {
            field.name: getattr(found.memory, field.name)[first : first + count]
            for field in fields(Memory)
            if field.name != "window"
        }
        memory = Memory(**own, window=torch.tensor([count]))
        alone = write(decoder, found.latents[row : row + 1, 4], memory, step[:1], longest=20)
        words = alone.tokens[0]
        assert torch.equal(together.tokens[row, : len(words)], words) and not together.tokens[row, len(words) :].any()
        assert float(alone.log_probability) == pytest.approx(float(together.log_probability[row]), abs=1e-3)


@torch.no_grad()
def test_what_was_taken_back_leaves_no_trace(model: WorldModel) -> None:
    windows, visible = sample(batch=1), torch.ones(1, 5, dtype=torch.bool)
    found, head = unrolled(model, windows, visible), model.observation_head
    assert isinstance(head, TextHead)
    straight, astray = (
        UnderWay(head, found.latents[:, 4], found.memory, torch.tensor([windows.past + 4])) for _ in range(2)
    )
    straight.next(torch.tensor([[[BEGIN, 20]]]))
    astray.next(torch.tensor([[[BEGIN, 20, 21, 22]]]))
    astray.forget(2)
    word = torch.tensor([[[23]]])
    assert torch.allclose(straight.next(word), astray.next(word), atol=1e-6)


@torch.no_grad()
def test_words_are_guessed_from_the_latest_text_that_went_on_like_this() -> None:
    model = make()
    windows, visible = sample(batch=1), torch.ones(1, 5, dtype=torch.bool)
    found, head = unrolled(model, windows, visible), model.observation_head
    assert isinstance(head, TextHead)
    text = [word for word in windows.observations[0, windows.past + 3].tolist() if word]
    under_way = UnderWay(head, found.latents[:, 4], found.memory, torch.tensor([windows.past + 4]))
    under_way.next(torch.tensor([[[BEGIN, *text[:2]]]]))
    assert under_way.guess(text[2], 100) == [*text[3:], END]
    assert under_way.guess(text[2], 2) == text[3:5]
    # What has not been read yet is not known.
    early = UnderWay(head, found.latents[:, 0], found.memory, torch.tensor([-1]))
    assert early.guess(text[2], 2) == []


@torch.no_grad()
def test_a_wide_beam_finds_the_likeliest_text_of_all() -> None:
    torch.manual_seed(1)
    few = ObservationSpec("text", (2,), (*SPECIAL, "a", "b", "c"))
    head = TextHead(replace(SMALL, text=TextConfig(decoder=1, head="bottleneck")), few)
    latents = torch.randn(1, 1, 3, 24)
    memory = unrolled(make(), sample(batch=1), torch.ones(1, 5, dtype=torch.bool)).memory
    words = [word for word in range(1, len(few.names)) if SPECIAL.index("<end>") != word]
    best = -np.inf
    for text in [(), *((one,) for one in words)]:
        target = torch.tensor([[[*text, *[0] * (2 - len(text))]]])
        best = max(best, float(head.log_likelihood(latents, target, memory, torch.ones(1, 1)).per_text()))
    for text in itertools.product(words, words):
        scored = head.log_likelihood(latents, torch.tensor([[text]]), memory, torch.ones(1, 1))
        best = max(best, float(scored.log_probability[:2].sum()))
    said = write(head, latents[:, 0], beam=100, longest=2)
    assert float(said.log_probability) == pytest.approx(best, abs=1e-4)


@torch.no_grad()
def test_a_head_that_only_copies_gives_no_word_less_than_nothing() -> None:
    model = make(guided=True)
    windows, visible = sample(batch=32), torch.ones(32, 5, dtype=torch.bool)
    found, head = unrolled(model, windows, visible), model.observation_head
    assert isinstance(head, TextHead)
    # All is copied; what is left to the vocabulary is one minus a sum that rounding makes too large.
    head.pointer.copy.bias.fill_(100.0)
    head.pointer.nothing.fill_(-100.0)
    under_way = UnderWay(head, found.latents[:, 4], found.memory, torch.full((32,), windows.past + 4), 3)
    for words in torch.randint(len(SPECIAL), 30, (6, 32, 3, 1), generator=torch.Generator().manual_seed(0)):
        chances = under_way.next(words)
        assert float(chances.min()) >= 0
        torch.testing.assert_close(chances.sum(-1), torch.ones(32, 3, 1))
    said = write(head, found.latents[:, 4], found.memory, torch.full((32,), windows.past + 4), beam=3, longest=12)
    assert torch.isfinite(said.log_probability).all()


def test_a_beam_of_nothing_is_refused(model: WorldModel) -> None:
    with pytest.raises(UserError, match="at least 1"):
        write(model.observation_head, torch.zeros(1, 3, 24), beam=0)  # type: ignore[arg-type]

"""Encoders and decoder of text worlds: what they may look at, and that the rest of the library holds for them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from toy_model import CORPUS, EVERYTHING, SMALL, likelihood, make, sample

from loopwm.certify.bounds import boundedness, observation_reach
from loopwm.errors import UserError
from loopwm.model.config import CERTIFIED_LOOP, ExitConfig, TextConfig
from loopwm.model.readout import Readout
from loopwm.model.text.encoders import TextEncoder
from loopwm.model.text.head import TextHead
from loopwm.model.world_model import WorldModel
from loopwm.train.text import unrolled, written


@pytest.fixture(params=EVERYTHING)
def model(request: pytest.FixtureRequest) -> WorldModel:
    return make(request.param)


# ---- what may be looked at ----


@torch.no_grad()
def test_every_window_is_on_its_own(model: WorldModel) -> None:
    windows = sample()
    visible = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    visible[:, 0] = True
    together = likelihood(model, windows, visible)[1].per_text()
    alone = [likelihood(model, windows[k : k + 1], visible[k : k + 1])[1].per_text() for k in range(6)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


@torch.no_grad()
def test_padding_changes_nothing(model: WorldModel) -> None:
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    wider = replace(
        windows,
        observations=torch.nn.functional.pad(windows.observations, (0, 7)),
        actions=torch.nn.functional.pad(windows.actions, (0, 3)),
    )
    first, second = (likelihood(model, one, visible)[1].per_text() for one in (windows, wider))
    assert torch.allclose(first, second, atol=1e-5)


@torch.no_grad()
def test_nothing_of_the_future_is_known(model: WorldModel) -> None:
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    changed = windows.observations.clone()
    later = changed[:, windows.past + 3 :]
    later[later != 0] = 40
    acted = windows.actions.clone()
    acted[:, windows.past + 3 :][acted[:, windows.past + 3 :] != 0] = 41
    first, expected = likelihood(model, windows, visible)
    second, found = likelihood(model, replace(windows, observations=changed, actions=acted), visible)
    # o_3 is the target of step 2, so latents of steps 0 to 2 and texts of steps 0 and 1 are the same.
    assert torch.allclose(first.latents[:, :3], second.latents[:, :3], atol=1e-5)
    assert torch.allclose(expected.per_text()[:, :2], found.per_text()[:, :2], atol=1e-4)
    assert not torch.allclose(first.latents[:, 3:], second.latents[:, 3:], atol=1e-3)


@torch.no_grad()
def test_what_is_hidden_is_not_read(model: WorldModel) -> None:
    windows, visible = sample(), (torch.arange(5) < 2).expand(6, -1)
    changed = windows.observations.clone()
    past = windows.past
    hidden = changed[:, past + 2 : past + 5]
    hidden[hidden != 0] = 40
    first, second = unrolled(model, windows, visible), unrolled(model, replace(windows, observations=changed), visible)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.memory.tokens, second.memory.tokens)
    # What was before, two observations, and five actions, of which each is known when its outcome is asked for.
    texts = [len(windows.observations[row, k].nonzero()) for row in range(6) for k in range(past + 2)]
    acts = int((windows.actions != 0).sum())
    assert len(first.memory.tokens) == sum(texts) + acts


@torch.no_grad()
def test_a_name_that_stands_in_the_action_can_be_copied() -> None:
    """Words of a_k may be pointed to when o_{k+1} is written, and those of a_{k+1} may not."""
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    head = make().observation_head
    assert isinstance(head, TextHead)
    found = unrolled(make(), windows, visible)
    acted = found.memory.tokens == windows.actions[0, windows.past + 2, 0]
    assert acted.any()
    steps = set(found.memory.step[acted][: int(found.memory.window[0])].tolist())
    assert windows.past + 2 in steps


@torch.no_grad()
def test_a_word_is_not_told_by_the_words_after_it(model: WorldModel) -> None:
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    found = unrolled(model, windows, visible)
    targets = windows.observations[:, windows.past + 1 :].long()
    head = model.observation_head
    assert isinstance(head, TextHead)
    shorter = targets.clone()
    shorter[..., 3:][shorter[..., 3:] != 0] = 42
    first, second = (
        head.log_likelihood(found.latents, one, found.memory, windows.labels["valid"], windows.past)
        for one in (targets, shorter)
    )
    early = first.texts.place < 3
    assert torch.allclose(first.log_probability[early], second.log_probability[early], atol=1e-5)


@torch.no_grad()
def test_only_a_head_that_copies_looks_back() -> None:
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    for head, differs in (("copy", True), ("bottleneck", False)):
        model = make(head)
        found = unrolled(model, windows, visible)
        forgotten = replace(found, memory=replace(found.memory, tokens=torch.full_like(found.memory.tokens, 40)))
        first, second = (written(model, windows, one, windows.labels["valid"]).per_text() for one in (found, forgotten))
        assert torch.equal(first, second) != differs


@torch.no_grad()
def test_the_words_of_a_text_add_up_to_probability_one(model: WorldModel) -> None:
    windows, visible = sample(batch=1, length=2), torch.ones(1, 2, dtype=torch.bool)
    found, head = unrolled(model, windows, visible), model.observation_head
    assert isinstance(head, TextHead)
    total = 0.0
    for word in range(1, len(CORPUS.vocabulary)):
        first = torch.zeros(1, 2, 1, dtype=torch.long)
        first[0, 1] = word
        targets = head.log_likelihood(found.latents, first, found.memory, torch.tensor([[0, 1]]), windows.past)
        total += float(targets.log_probability[0].exp())
    assert total == pytest.approx(1, abs=1e-3)


def test_weights_that_rounding_makes_more_than_one_leave_a_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    model, windows = make(), sample()
    head = model.observation_head
    assert isinstance(head, TextHead)
    pointer = head.pointer
    weights = pointer.weights
    monkeypatch.setattr(pointer, "weights", lambda *told: (found := weights(*told)) / found.sum(-1, True) * (1 + 3e-6))
    with torch.no_grad():
        # Nothing is left for the vocabulary.
        pointer.copy.bias.fill_(50.0)
    targets = likelihood(model, windows, torch.ones(windows.rewards.shape, dtype=torch.bool))[1]
    loss = -targets.log_probability.mean()
    loss.backward()
    assert loss.isfinite() and all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())


def test_attention_agrees_with_the_fused_kernel() -> None:
    torch.manual_seed(0)
    encoder = make().encoder
    assert isinstance(encoder, TextEncoder)
    attention = encoder.read
    q, k, v = (torch.randn(4, n, 2, 12) for n in (5, 7, 7))
    mask = torch.rand(4, 5, 7) < 0.6
    sink = torch.nn.functional.normalize(attention.sink, dim=-1).expand(4, 1, -1, -1)
    keys, values = torch.cat([sink, k], 1), torch.cat([torch.zeros(4, 1, 2, 12), v], 1)
    allowed = torch.cat([torch.ones(4, 5, 1, dtype=torch.bool), mask], -1)[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(part.transpose(1, 2) for part in (q, keys, values)), attn_mask=allowed, scale=1.0
    )
    assert torch.allclose(attention.attend(q, k, v, mask), expected.transpose(1, 2).flatten(-2), atol=1e-5)


# ---- the rest of the library ----


def test_the_same_loop_is_used_as_for_numbers() -> None:
    model = make()
    windows = sample(batch=2)
    shallow, deep = (
        unrolled(model, windows, torch.ones(2, 5, dtype=torch.bool), num_loops=loops).latents for loops in (1, 2)
    )
    assert not torch.allclose(shallow, deep)
    left = unrolled(model, windows, torch.ones(2, 5, dtype=torch.bool), exit=ExitConfig("residual", 1e9)).latents
    assert torch.allclose(left, shallow, atol=1e-5)


def test_what_is_bounded_of_a_text_holds_for_any_words() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, loop=replace(CERTIFIED_LOOP, mu=2, phases=0), text=TextConfig(encoder=1, decoder=1))
    model = WorldModel(config, CORPUS.observation, CORPUS.action, CORPUS.statistics(CORPUS.split("train"))).eval()
    assert math.isfinite(boundedness(model).carried)
    encoder = model.encoder
    assert isinstance(encoder, TextEncoder)
    reach = observation_reach(encoder, 10.0)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(7, len(CORPUS.vocabulary), (200, 30), generator=generator)
    with torch.no_grad():
        e = encoder(texts)
    assert (e.abs().amax((0, 1)) <= reach.channel + 1e-4).all()
    assert float(e.norm(dim=-1).max()) <= reach.norm + 1e-4


def test_an_embedding_of_text_cannot_be_read_back() -> None:
    with pytest.raises(UserError, match="than the text it was made from"):
        Readout(make())

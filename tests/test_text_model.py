"""Encoders and decoder of text worlds: what they may look at, and that writing agrees with likelihoods."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from toy_text import episodes, play

from loopwm.certify.bounds import boundedness, observation_reach
from loopwm.data.windows import Windows
from loopwm.errors import UserError
from loopwm.model.config import CERTIFIED_LOOP, ExitConfig, LoopConfig, ModelConfig, TextConfig
from loopwm.model.readout import Readout
from loopwm.model.text.encoders import BEGIN, END, Memory, TextEncoder
from loopwm.model.text.head import Targets, TextHead
from loopwm.model.text.packing import Layout, by_length, flattened, pairs
from loopwm.model.text.under_way import UnderWay
from loopwm.model.text.writing import write
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ObservationSpec
from loopwm.text.corpus import TextCorpus, text_windows
from loopwm.text.recording import TextManifest
from loopwm.text.sampling import TextSampler
from loopwm.text.vocabulary import SPECIAL
from loopwm.train.text import Unrolled, unrolled, written

CORPUS = TextCorpus.of(episodes(), TextManifest("scienceworld", "toy"))
SMALL = ModelConfig(width=24, heads=2, mlp_ratio=2, tokens=3, loop=LoopConfig(mu=2, phases=2))
EVERYTHING = ("copy", "bottleneck")


def make(head: str = "copy", follow: int = TextConfig.follow, **fields: object) -> WorldModel:
    torch.manual_seed(0)
    text = TextConfig(encoder=1, decoder=2, head=head, follow=follow, heading=2)  # type: ignore[arg-type]
    config = replace(SMALL, text=text, **fields)  # type: ignore[arg-type]
    model = WorldModel(config, CORPUS.observation, CORPUS.action, CORPUS.statistics(CORPUS.split("train")))
    with torch.no_grad():
        # As a trained model is: nothing is left at a start where it has no effect.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def sample(batch: int = 6, length: int = 5) -> Windows:
    return TextSampler(CORPUS, CORPUS.split("train"), 3, initial=0.5).draw(0, batch, length)


def likelihood(model: WorldModel, windows: Windows, visible: torch.Tensor) -> tuple[Unrolled, Targets]:
    found = unrolled(model, windows, visible)
    return found, written(model, windows, found, windows.labels["valid"])


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
    changed[:, 3:][changed[:, 3:] != 0] = 40
    acted = windows.actions.clone()
    acted[:, 3:][acted[:, 3:] != 0] = 41
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
    hidden = changed[:, 2:5]
    hidden[hidden != 0] = 40
    first, second = unrolled(model, windows, visible), unrolled(model, replace(windows, observations=changed), visible)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.memory.tokens, second.memory.tokens)
    # Two observations with the opening, and five actions, of which each is known when its outcome is asked for.
    texts = [len(windows.observations[row, k].nonzero()) for row in range(6) for k in range(2)]
    acts = int((windows.actions != 0).sum())
    assert len(first.memory.tokens) == sum(texts) + acts


@torch.no_grad()
def test_a_name_that_stands_in_the_action_can_be_copied() -> None:
    """Words of a_k may be pointed to when o_{k+1} is written, and those of a_{k+1} may not."""
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    head = make().observation_head
    assert isinstance(head, TextHead)
    found = unrolled(make(), windows, visible)
    acted = found.memory.tokens == windows.actions[0, 2, 0]
    assert acted.any()
    steps = set(found.memory.step[acted][: int(found.memory.window[0])].tolist())
    assert 2 in steps


@torch.no_grad()
def test_a_word_is_not_told_by_the_words_after_it(model: WorldModel) -> None:
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    found = unrolled(model, windows, visible)
    targets = windows.observations[:, 1:].long()
    head = model.observation_head
    assert isinstance(head, TextHead)
    shorter = targets.clone()
    shorter[..., 3:][shorter[..., 3:] != 0] = 42
    first, second = (
        head.log_likelihood(found.latents, one, found.memory, windows.labels["valid"]) for one in (targets, shorter)
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
        targets = head.log_likelihood(found.latents, first, found.memory, torch.tensor([[0, 1]]))
        total += float(targets.log_probability[0].exp())
    assert total == pytest.approx(1, abs=1e-3)


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


# ---- writing ----


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3])
def test_what_is_written_is_as_likely_as_it_says(model: WorldModel, beam: int) -> None:
    windows, visible = sample(), torch.ones(6, 5, dtype=torch.bool)
    found, head = unrolled(model, windows, visible), model.observation_head
    assert isinstance(head, TextHead)
    said = write(head, found.latents[:, 4], found.memory, torch.full((6,), 4), beam=beam, longest=12)
    targets = torch.zeros(6, 5, said.tokens.shape[1], dtype=torch.long)
    targets[:, 4] = said.tokens
    valid = torch.zeros(6, 5)
    valid[:, 4] = 1
    scored = head.log_likelihood(found.latents, targets, found.memory, valid)
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
    said = write(head, found.latents[:, 4], found.memory, torch.full((2,), 4), longest=4).tokens
    for place, word in itertools.product(range(min(3, said.shape[1])), range(7, len(CORPUS.vocabulary), 9)):
        other = torch.zeros(2, 5, place + 1, dtype=torch.long)
        other[:, 4] = said[:, : place + 1]
        valid = torch.zeros(2, 5)
        valid[:, 4] = 1
        best = head.log_likelihood(found.latents, other, found.memory, valid)
        other[:, 4, place] = word
        worse = head.log_likelihood(found.latents, other, found.memory, valid)
        here = best.texts.place == place
        if (said[:, place] != 0).all():
            assert (best.log_probability[here] >= worse.log_probability[worse.texts.place == place] - 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize(("head", "follow"), [("copy", 16), ("copy", 0), ("bottleneck", 0)])
def test_a_single_text_is_written_as_among_others(head: str, follow: int) -> None:
    model = make(head, follow)
    windows, visible = sample(batch=8), torch.ones(8, 5, dtype=torch.bool)
    found, decoder = unrolled(model, windows, visible), model.observation_head
    assert isinstance(decoder, TextHead)
    step = torch.full((8,), 4)
    together = write(decoder, found.latents[:, 4], found.memory, step, longest=20)
    begin = (found.memory.window.cumsum(0) - found.memory.window).tolist()
    for row, (first, count) in enumerate(zip(begin, found.memory.window.tolist(), strict=True)):
        own = {
            part: getattr(found.memory, part)[first : first + count]
            for part in ("states", "tokens", "step", "before", "heading")
        }
        alone = write(
            decoder, found.latents[row : row + 1, 4], Memory(**own, window=torch.tensor([count])), step[:1], longest=20
        )
        words = alone.tokens[0]
        assert torch.equal(together.tokens[row, : len(words)], words) and not together.tokens[row, len(words) :].any()
        assert float(alone.log_probability) == pytest.approx(float(together.log_probability[row]), abs=1e-3)


@torch.no_grad()
def test_what_was_taken_back_leaves_no_trace(model: WorldModel) -> None:
    windows, visible = sample(batch=1), torch.ones(1, 5, dtype=torch.bool)
    found, head = unrolled(model, windows, visible), model.observation_head
    assert isinstance(head, TextHead)
    straight, astray = (UnderWay(head, found.latents[:, 4], found.memory, torch.tensor([4])) for _ in range(2))
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
    text = [word for word in windows.observations[0, 3].tolist() if word]
    under_way = UnderWay(head, found.latents[:, 4], found.memory, torch.tensor([4]))
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


def test_a_beam_of_nothing_is_refused(model: WorldModel) -> None:
    with pytest.raises(UserError, match="at least 1"):
        write(model.observation_head, torch.zeros(1, 3, 24), beam=0)  # type: ignore[arg-type]


# ---- packing ----


@given(st.lists(st.integers(0, 90), min_size=1, max_size=30))
@settings(max_examples=40)
def test_groups_hold_every_word_once_and_put_it_back_where_it_was(lengths: list[int]) -> None:
    length = torch.tensor(lengths)
    layout = Layout.of(length, by_length(length))
    x = torch.arange(int(length.sum())).float()[:, None] + 1
    if not layout.groups:
        assert not length.any()
        return
    assert torch.equal(layout.join([x[group.index] for group in layout.groups]), x)
    assert sorted(torch.cat([group.rows for group in layout.groups]).tolist()) == length.nonzero()[:, 0].tolist()


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=20), st.integers(1, 50_000))
@settings(max_examples=40)
def test_pairs_hold_every_window_once_and_stay_small(sizes: list[tuple[int, int]], most: int) -> None:
    first, second = torch.tensor(sizes).unbind(1)
    groups = pairs(first, second, most)
    assert sorted(row for group in groups for row in group.tolist()) == (first * second).nonzero()[:, 0].tolist()
    for group in groups:
        assert len(group) == 1 or int((first * second)[group].max()) * len(group) <= most


def test_flattening_keeps_words_in_order() -> None:
    texts = flattened(torch.tensor([[[5, 6, 0], [7, 0, 0]], [[0, 0, 0], [8, 9, 7]]]))
    assert texts.tokens.tolist() == [5, 6, 7, 8, 9, 7]
    assert texts.text.tolist() == [0, 0, 1, 3, 3, 3]
    assert texts.step.tolist() == [0, 0, 1, 1, 1, 1]
    assert texts.window.tolist() == [3, 3]


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


# ---- the recording as tokens ----


def test_windows_hold_what_was_recorded_in_the_order_of_time() -> None:
    found = text_windows(CORPUS, np.array([8]), np.array([2]), 4)
    episode = episodes()[8]
    words = [CORPUS.vocabulary.decode(one) for one in found.observations[0].tolist()]
    assert words[0] == f"{episode.description} {episode.observations[2]}"
    assert words[1:] == list(episode.observations[3:7])
    assert [CORPUS.vocabulary.decode(one) for one in found.actions[0].tolist()] == list(episode.actions[2:6])
    expected = np.diff(episode.scores)[2:6]
    assert found.rewards[0].tolist() == pytest.approx(expected.tolist())
    assert found.labels["valid"].all()


def test_a_short_episode_is_filled_up_with_nothing() -> None:
    # Episode 0 has 3 transitions.
    found = text_windows(CORPUS, np.array([0]), np.array([0]), 5)
    assert found.labels["valid"].tolist() == [[1, 1, 1, 0, 0]]
    assert not found.observations[0, 4:].any() and not found.actions[0, 3:].any()
    model = make()
    visible = torch.ones(1, 5, dtype=torch.bool)
    assert likelihood(model, found, visible)[1].per_text()[0, 3:].tolist() == [0, 0]


def test_every_place_of_every_episode_is_drawn() -> None:
    sampler = TextSampler(CORPUS, CORPUS.split("train"), 0)
    found = sampler.draw(0, 4000, 4)
    seen = set(zip(found.episode.tolist(), found.start.tolist(), strict=True))
    expected = {(e, t) for e in CORPUS.split("train") for t in range(max(int(CORPUS.ep_len[e]) - 3, 1))}
    assert seen == expected


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_task_types_are_drawn_as_evenly_as_asked_for(balance: float) -> None:
    """One long episode has most of the windows; the others are all short."""
    long, *others = replace(play(0, "train", 15), task_type="Boil"), *(play(k, "train", 2 + k) for k in (1, 2, 3))
    corpus = TextCorpus.of([long, *others], TextManifest("scienceworld", "toy"))
    sampler = TextSampler(corpus, np.arange(4), 0, balance=balance)
    first, *rest = (int(n) - 2 for n in corpus.ep_len)
    found = sampler.draw(0, 6000, 3)
    expected = first ** (1 - balance) / (first ** (1 - balance) + sum(rest) ** (1 - balance))
    assert float((found.episode == 0).float().mean()) == pytest.approx(expected, abs=0.03)
    # Within a type, every window is as likely as any other.
    counts = np.bincount(found.episode.numpy(), minlength=4)[1:]
    assert counts / counts.sum() == pytest.approx(np.array(rest) / sum(rest), abs=0.04)
    places = {(int(e), int(t)) for e, t in zip(found.episode, found.start, strict=True)}
    assert places == {(e, t) for e, n in enumerate([first, *rest]) for t in range(n)}


def test_the_initial_state_comes_before_what_is_seen_where_it_is_asked_for() -> None:
    found = text_windows(CORPUS, np.array([3, 3]), np.array([0, 0]), 2, np.array([True, False]))
    episode = episodes()[3]
    words = [CORPUS.vocabulary.decode(one.tolist()) for one in found.observations[:, 0]]
    assert words[0] == f"{episode.description} {episode.initial} {episode.observations[0]}"
    assert words[1] == f"{episode.description} {episode.observations[0]}"


def test_a_share_of_the_windows_is_told_the_initial_state() -> None:
    state = CORPUS.vocabulary.index("<state>")
    for share, expected in ((0.0, 0.0), (0.3, 0.3), (1.0, 1.0)):
        windows = TextSampler(CORPUS, CORPUS.split("train"), 0, share).draw(0, 1000, 3)
        told = (windows.observations[:, 0] == state).any(-1).float().mean()
        assert float(told) == pytest.approx(expected, abs=0.05)


def test_words_come_from_training_episodes_alone() -> None:
    with pytest.raises(UserError, match="no training episode"):
        TextCorpus.of([one for one in episodes() if one.split != "train"], TextManifest("scienceworld", "toy"))

"""What of a long past is told: the same in training and in use, and nothing that later answers have replaced."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from toy_model import CORPUS, likelihood, make
from toy_text import episodes, play

from loopwm.errors import UserError
from loopwm.text.benchmark.windows import TRACKS, cut
from loopwm.text.config import SimulatorConfig
from loopwm.text.corpus import TextCorpus, padded, text_windows
from loopwm.text.past import standing
from loopwm.text.recording import TextEpisode, TextManifest
from loopwm.text.simulator import Scene, TextSimulator
from loopwm.train.config import LossConfig
from loopwm.train.text import TextDecoding, unrolled


def test_windows_that_are_told_the_initial_state_know_what_still_stands_of_the_past() -> None:
    """Windows of episodes 8 and 6 from 7 and 2 on, and one that is told nothing."""
    number, start = np.array([8, 6, 8]), np.array([7, 2, 7])
    found = text_windows(CORPUS, number, start, 3, np.array([True, True, False]))
    all_of_them, known = episodes(), list[int]()
    for row, (e, s, told) in enumerate(zip(number, start, (True, True, False), strict=True)):
        episode = all_of_them[e]
        steps = [k for k in range(s) if told and superseded(episode, k, s) is False]
        texts = [episode.observations[0], *(episode.observations[k + 1] for k in steps[:-1])] if steps else []
        texts += episode.observations[s : s + 4]
        texts[0] = " ".join([episode.description, *[episode.initial] * bool(told), texts[0]])
        if steps:
            # What latents are made of begins with the task as well.
            texts[len(steps)] = f"{episode.description} {texts[len(steps)]}"
        actions = [*(episode.actions[k] for k in steps), *episode.actions[s : s + 3]]
        known.append(len(steps))
        nothing = found.past - len(steps)
        assert nothing >= 0 and not found.observations[row, :nothing].any()
        read = [CORPUS.vocabulary.decode(one) for one in found.observations[row, nothing:].tolist()]
        assert read == texts
        done = [CORPUS.vocabulary.decode(one) for one in found.actions[row, nothing:].tolist()]
        assert done == actions
    assert found.past == max(known) < 7
    assert found.rewards.shape == found.labels["valid"].shape == (3, 3)
    assert found.last().observations.shape[1] == 2 and not found.last().past


def superseded(episode: TextEpisode, k: int, end: int) -> bool:
    """Whether the action of k is taken again before `end`, with an answer that begins with the same six words."""
    heads = [CORPUS.vocabulary.encode([text])[0][:6] for text in episode.observations]
    return any(episode.actions[i] == episode.actions[k] and heads[i + 1] == heads[k + 1] for i in range(k + 1, end))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_the_past_keeps_the_latest_of_every_kind(steps: list[tuple[int, int, int]]) -> None:
    """An answer is a kind in six words, and a seventh that does not matter."""
    actions = [np.array([action], np.int32) for action, _, _ in steps]
    answers = [np.array([*[kind] * 6, rest], np.int32) for _, kind, rest in steps]
    kept = standing(actions, answers)
    assert kept == sorted(kept) and (not steps or kept[-1] == len(steps) - 1)
    kinds = [steps[k][:2] for k in kept]
    assert len(set(kinds)) == len(kinds) and set(kinds) == {step[:2] for step in steps}
    assert all(steps[k][:2] not in [step[:2] for step in steps[k + 1 :]] for k in kept)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("start", [0, 1, 6])
def test_what_is_written_in_use_is_as_likely_in_training(start: int, beam: int) -> None:
    """After a past of `start` transitions and three more, of which the last action is to be answered."""
    model, episode, steps = make(guided=True), episodes()[8], 3
    simulator = TextSimulator(model, SimulatorConfig(memory=steps - 1, beam=beam))
    asked = cut(episode, 8, start + steps - 1, TRACKS["one-step-full"])
    found = simulator.read([asked]).acted(simulator._tokens(asked.actions))[0].written()
    windows = text_windows(CORPUS, np.array([8]), np.array([start]), steps, np.array([True]))
    assert bool(windows.past) == (start > 0)
    # Its tokens, as the text of a model that has learned nothing need not have the same ones when it is read again.
    said = found.tokens[0].int()
    seen = [[one.numpy()[one.numpy() != 0] for one in (*windows.observations[0, :-1], said)]]
    told = replace(windows, observations=padded(seen))
    _, targets = likelihood(model, told, torch.ones(1, steps, dtype=torch.bool))
    last = targets.log_probability[targets.texts.step == steps - 1]
    # Cut off, it has no end.
    whole = len(said) < CORPUS.observation.shape[0]
    assert float(last[: len(said) + whole].sum()) == pytest.approx(float(found.log_probability), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 6])
def test_latents_know_the_task_whatever_the_past(start: int) -> None:
    model = make()
    here, told = (np.array([8]), np.array([start])), np.array([True])
    windows = text_windows(CORPUS, *here, 3, told)
    tasks = np.concatenate([CORPUS.openings[e][1:3] for e in range(len(CORPUS.ep_len))])
    other = windows.observations.clone()
    task = windows.observations[0, windows.past, 1]
    assert task in tasks
    other[0, windows.past, 1] = task + 1
    visible = torch.ones(1, 3, dtype=torch.bool)
    first, second = (
        unrolled(model, replace(windows, observations=one), visible) for one in (windows.observations, other)
    )
    assert not torch.allclose(first.latents, second.latents, atol=1e-4)


def test_an_episode_without_an_initial_state_has_no_past() -> None:
    corpus = TextCorpus.of([replace(one, initial="") for one in episodes()], TextManifest("scienceworld", "toy"))
    asked = np.array([8]), np.array([6]), 3
    plain, told = (text_windows(corpus, *asked, np.array([one])) for one in (False, True))
    assert torch.equal(plain.observations, told.observations) and not told.past


def test_without_the_initial_state_what_is_further_back_is_forgotten() -> None:
    model, episode = make(guided=True), episodes()[8]
    asked = cut(episode, 8, 9, TRACKS["one-step"])
    context = asked.context
    recent = replace(context, observations=context.observations[-4:], actions=context.actions[-3:])
    forgetful = TextSimulator(model, SimulatorConfig(memory=3)).foresee([asked])
    short, long = (TextSimulator(model).foresee([replace(asked, context=one)]) for one in (recent, context))
    assert forgetful.texts == short.texts and torch.equal(forgetful.confidence, short.confidence)
    assert not torch.equal(forgetful.confidence, long.confidence)


@pytest.mark.parametrize("initial", [False, True])
def test_a_long_life_is_lived_with_a_past_as_short_as_in_training(initial: bool) -> None:
    """Followed are up to 6 transitions, read anew when there would be more; beside them, what still stands is known."""
    simulator = TextSimulator(make(guided=True), SimulatorConfig(memory=4))
    life = play(1, "validation", 40)
    done, seen = (CORPUS.vocabulary.encode(texts) for texts in (life.actions, life.observations[1:]))
    kinds = len(standing([np.array(one) for one in done], [np.array(one) for one in seen]))
    track = replace(TRACKS["one-step-full" if initial else "one-step"], memory=None)
    scene = simulator.begin(life.observations[0], life.description, life.initial if initial else "")
    for k, (action, true) in enumerate(zip(life.actions, life.observations[1:], strict=True)):
        if k in (3, 20, 38):
            scene, answer = scene.act(action)
            # As if all that is followed were read at once.
            reader = TextSimulator(simulator.model, SimulatorConfig(memory=scene.followed - 1))
            whole = reader.foresee([cut(life, 1, k, track)])
            assert whole.texts == [[answer.observation]]
            assert float(whole.confidence) == pytest.approx(answer.confidence, rel=1e-3, abs=1e-9)
            scene = scene.saw(true)
        else:
            scene = lived(scene, action, true)
        assert scene.followed <= 6
        assert len(scene.scenes.memory.step.unique()) <= 1 + 6 + initial * kinds
    assert kinds < 20


def lived(scene: Scene, action: str, true: str) -> Scene:
    """After an action whose answer nobody asks for."""
    scenes = scene.scenes.acted(scene.simulator._tokens([action]))[0]
    return replace(scene, scenes=scenes, action=action, followed=scene.followed + 1).saw(true)


def test_what_was_imagined_is_not_read_where_the_truth_is_known() -> None:
    """With `decode`, a model reads its own answer, but not beside what really happened."""
    model = make(guided=True)
    fed, plain = (TextSimulator(model, SimulatorConfig(decode=decode)) for decode in (True, False))
    true = "You move to the cellar."
    moments = [one.begin("You are in the kitchen.").act("go")[0].saw(true) for one in (fed, plain)]
    assert [len(one.scenes.memory.tokens) for one in moments] == [len(moments[1].scenes.memory.tokens)] * 2
    answers = [one.act("look")[1] for one in moments]
    assert answers[0] == answers[1]


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="memory must be at least 1 transition, got 0"):
        SimulatorConfig(memory=0)


@torch.no_grad()
def test_deferred_decoding_is_held_to_what_was_seen_on_the_way_and_not_to_the_past() -> None:
    model, episode = make(guided=True, summary=True), episodes()[8]
    windows = text_windows(CORPUS, np.array([8]), np.array([6]), 3, np.array([True]))
    assert windows.past > 0
    objective = TextDecoding(LossConfig(decoding="deferred"), 1.0)
    latents = objective.unroll(model, windows, 2, torch.Generator().manual_seed(0))
    terms = objective.terms(model, windows, latents)
    # o_{s+1} and o_{s+2} are passed, o_{s+3} is written.
    seen = padded([[np.asarray(CORPUS.vocabulary.encode([text])[0], np.int32) for text in episode.observations[7:9]]])
    target = model.encode(seen)
    assert target.shape == latents[:, :-1].shape
    found = float(terms.further["consistency"])
    assert found == pytest.approx(float((model.summary(latents[:, :-1]) - target).square().mean()), rel=1e-5)
    others = [model.encode(windows.observations[:, k : k + 2]) for k in range(windows.observations.shape[1] - 2)]
    assert sum(math.isclose(found, float((model.summary(latents[:, :-1]) - one).square().mean())) for one in others) < 2
    scored = likelihood(model, windows, torch.tensor([[True, False, False]]))[1].per_text()
    words = len(CORPUS.vocabulary.encode([episode.observations[9]])[0]) + 1
    assert float(terms.observation) == pytest.approx(-float(scored[0, -1]) / words, rel=1e-3)

"""Recorded text as tokens and windows, and texts of all lengths without padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

from toy_model import CORPUS, likelihood, make
from toy_text import episodes, play

from loopwm.data.windows import Windows
from loopwm.errors import UserError
from loopwm.model.text.packing import Layout, by_length, flattened, pairs
from loopwm.text.corpus import TextCorpus, text_windows
from loopwm.text.recording import TextEpisode, TextManifest
from loopwm.text.sampling import TextSampler, changed_answers, holding


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


def told(pairs: list[tuple[str, str]], task: str = "Find") -> TextEpisode:
    """An episode of these actions and answers."""
    actions, answers = zip(*pairs, strict=True)
    observations = ("You wake up.", *answers)
    return replace(
        play(0, "train"), observations=observations, actions=actions, scores=(0.0,) * len(observations), task_type=task
    )


def test_an_answer_changed_if_the_same_action_was_answered_otherwise_the_last_time() -> None:
    steps = [("look", "a mat"), ("wait", "."), ("look", "a mat"), ("take mat", "."), ("look", "nothing"), ("wait", ".")]
    corpus = TextCorpus.of([told(steps)], TextManifest("scienceworld", "toy"))
    assert changed_answers(corpus, 0) == [(2, 4)]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12), st.integers(1, 13))
@settings(max_examples=60)
def test_windows_with_changed_answers_are_those_that_show_both(steps: list[tuple[int, int]], length: int) -> None:
    corpus = TextCorpus.of([told([(f"do {a}", f"is {b}") for a, b in steps])], TextManifest("scienceworld", "toy"))
    starts = max(len(steps) - length + 1, 1)
    expected = []
    for begin in range(starts):
        known: dict[int, int] = {}
        changed = False
        for action, answer in steps[begin : begin + length]:
            changed |= known.setdefault(action, answer) != answer
            known[action] = answer
        expected.append(changed)
    assert holding(changed_answers(corpus, 0), starts, length).tolist() == expected


def drawn(windows: Windows) -> list[tuple[int, int]]:
    """Episode and start of each."""
    return list(zip(windows.episode.tolist(), windows.start.tolist(), strict=True))


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_windows_with_changed_answers_are_drawn_as_often_as_asked_for(balance: float) -> None:
    still = [("look", "a mat"), ("wait", ".")] * 10
    moved = [*still, ("take mat", "."), ("look", "nothing")]
    corpus = TextCorpus.of(
        [told(still), told(moved), told([*still, *moved]), told(moved, "Boil")], TextManifest("scienceworld", "toy")
    )
    found = TextSampler(corpus, np.arange(4), 0, balance=balance, changes=1.0).draw(0, 3000, 5)
    # Only windows that end with the last answer also hold the one before it, three transitions earlier.
    places = {(1, 17), (2, 37), (3, 17)}
    assert set(drawn(found)) == places
    boils = float((found.episode == 3).float().mean())
    assert boils == pytest.approx(1 / 2 if balance else 1 / 3, abs=0.03)
    some = TextSampler(corpus, np.arange(4), 0, changes=0.4).draw(0, 3000, 5)
    plain = TextSampler(corpus, np.arange(4), 0).draw(0, 3000, 5)

    shares = [np.mean([place in places for place in drawn(windows)]) for windows in (some, plain)]
    assert shares[0] == pytest.approx(0.4 + 0.6 * shares[1], abs=0.03)


def test_changes_are_refused_where_nothing_changes() -> None:
    corpus = TextCorpus.of([told([("look", "a mat"), ("wait", ".")])], TextManifest("scienceworld", "toy"))
    with pytest.raises(UserError, match=r"No training window of 2 transitions .* leave train\.changes at 0"):
        TextSampler(corpus, np.arange(1), 0, changes=0.5).refuse_unchanging(2)


def test_windows_too_short_to_show_a_change_are_drawn_anywhere() -> None:
    moved = [("look", "a mat"), ("take mat", "."), ("look", "nothing")]
    corpus = TextCorpus.of([told(moved)], TextManifest("scienceworld", "toy"))
    changing, plain = (TextSampler(corpus, np.arange(1), 0, changes=share) for share in (0.5, 0.0))
    changing.refuse_unchanging(3)
    assert drawn(changing.draw(0, 50, 1)) == drawn(plain.draw(0, 50, 1))


def test_a_cut_opening_still_ends_where_what_is_seen_begins() -> None:
    long = replace(play(0, "train"), description="look " * 40, initial="")
    corpus = TextCorpus.of([long, play(1, "train")], TextManifest("scienceworld", "toy"), most=8)
    assert len(corpus.openings[0]) == 8 and corpus.openings[0][-1] == corpus.vocabulary.index("<seen>")
    # A long task is no initial state.
    assert corpus.stated.tolist() == [False, True]


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
        told = (windows.observations == state).any(-1).any(-1).float().mean()
        assert float(told) == pytest.approx(expected, abs=0.05)


def test_every_other_window_that_is_told_the_initial_state_begins_there() -> None:
    plain, told = (TextSampler(CORPUS, CORPUS.split("train"), 0, share).draw(0, 2000, 2) for share in (0.0, 1.0))
    moved = plain.start != told.start
    assert not told.start[moved].any() and not plain.past and told.past
    assert float(moved.float().mean()) == pytest.approx(0.5 * float((plain.start > 0).float().mean()), abs=0.03)


def test_windows_begin_anywhere_where_no_initial_state_is_recorded() -> None:
    corpus = TextCorpus.of([replace(one, initial="") for one in episodes()], TextManifest("scienceworld", "toy"))
    drawn = [TextSampler(corpus, corpus.split("train"), 0, share).draw(0, 100, 2) for share in (0.0, 1.0)]
    assert torch.equal(drawn[0].start, drawn[1].start) and len(set(drawn[0].start.tolist())) > 1


def test_words_come_from_training_episodes_alone() -> None:
    with pytest.raises(UserError, match="no training episode"):
        TextCorpus.of([one for one in episodes() if one.split != "train"], TextManifest("scienceworld", "toy"))


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

"""Which recorded transitions an evaluation looks at: every one once, none after the end."""

from __future__ import annotations

import numpy as np
import pytest

from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.segments import cut, rollouts, tile


def test_tiles_cover_every_transition_exactly_once(billiards_columns):
    episodes = np.array([3, 0, 11])
    segments = tile(billiards_columns, episodes, 7)
    steps = segments.start[:, None] + np.arange(7)
    seen = sorted(zip(segments.transition_episode.tolist(), steps[segments.valid].tolist(), strict=True))
    assert seen == sorted((int(e), k) for e in episodes for k in range(billiards_columns.ep_len[e]))


def test_segments_hold_what_the_episode_holds_up_to_its_end(billiards_store, billiards_columns):
    """The terminating transition and the observation after it count; nothing after them does."""
    ended = int(np.flatnonzero(billiards_columns.terminated)[0])
    with Store.open(billiards_store) as store:
        episode = store.episode(ended)
    length = episode.length
    start = max(0, length - 3)
    segments = cut(billiards_columns, np.array([ended]), np.array([start]), 10)
    left = length - start
    assert segments.valid[0].tolist() == [True] * left + [False] * (10 - left)
    assert (segments.observations[0, : left + 1] == episode.observations[start:]).all()
    assert (segments.observations[0, left + 1 :] == episode.observations[-1]).all()
    assert (segments.actions[0, :left] == episode.actions[start:]).all()
    assert segments.continues[0, :left].tolist() == [1.0] * (left - 1) + [0.0]
    assert segments.rewards[0, left - 1] == episode.rewards[-1] == 1.0
    assert (segments.labels["impulse"][0, :left] == episode.labels["impulse"][start:]).all()


def test_the_last_segment_of_a_store_can_be_padded(billiards_columns):
    last = len(billiards_columns.ep_len) - 1
    segments = cut(billiards_columns, np.array([last]), np.array([int(billiards_columns.ep_len[last]) - 1]), 40)
    assert segments.valid.sum() == 1


def test_rollouts_start_at_every_stride(billiards_columns):
    segments = rollouts(billiards_columns, np.array([2, 5]), 40, stride=20)
    expected = [(e, s) for e in (2, 5) for s in range(0, int(billiards_columns.ep_len[e]), 20)]
    assert list(zip(segments.episode.tolist(), segments.start.tolist(), strict=True)) == expected
    assert segments.length == 40


def test_thinning_is_deterministic_and_keeps_about_what_was_asked_for(billiards_columns):
    episodes = np.arange(40)
    one, same = (tile(billiards_columns, episodes, 5, transitions=300, seed=1) for _ in range(2))
    other = tile(billiards_columns, episodes, 5, transitions=300, seed=2)
    assert len(one) == 60
    assert (one.start == same.start).all() and (one.episode == same.episode).all()
    assert (one.start != other.start).any() or (one.episode != other.episode).any()


def test_masked_values_are_nan_exactly_where_nothing_happened(billiards_columns):
    segments = tile(billiards_columns, np.arange(10), 16)
    masked = segments.masked(np.ones(segments.valid.shape))
    assert (np.isnan(masked) == ~segments.valid).all()


def test_no_episodes_is_refused(billiards_columns):
    with pytest.raises(UserError, match="no episodes to evaluate on"):
        tile(billiards_columns, np.array([], np.int64), 4)

"""Statistics equal those of the plainly concatenated training episodes, and of no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loopwm.data.cache import Columns, open_memmap
from loopwm.data.episode import Episode
from loopwm.data.statistics import compute_statistics
from loopwm.data.store import Store, StoreMeta, write_store
from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec


def test_entities_are_pooled_over_discs_rows_and_training_episodes(billiards_store: Path, billiards_columns: Columns):
    with Store.open(billiards_store) as store:
        train = store.split("train")
        episodes = [store.episode(int(i)) for i in train]
    statistics = compute_statistics(billiards_columns, train)
    discs = np.concatenate([episode.observations.reshape(-1, 5) for episode in episodes]).astype(np.float64)
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)
    rewards = np.concatenate([episode.rewards for episode in episodes]).astype(np.float64)
    np.testing.assert_allclose(statistics.observation_mean, discs.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(statistics.observation_std, discs.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(statistics.action_mean, actions.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(statistics.action_std, actions.std(axis=0), rtol=1e-5)
    assert statistics.reward_mean == pytest.approx(rewards.mean(), rel=1e-5)
    assert statistics.reward_std == pytest.approx(rewards.std(), rel=1e-5)
    # Which disc is the cue is visible but never changes.
    assert statistics.observation_changes.tolist() == [True, True, True, True, False]


def columns_of(path: Path, meta: StoreMeta, episodes: list[Episode]) -> Columns:
    write_store(path, episodes, meta)
    with Store.open(path) as store:
        return open_memmap(store)


def episode(observations: list[list[float]], actions: list[float]) -> Episode:
    steps = len(actions)
    return Episode(
        np.array(observations, np.float32),
        np.array(actions, np.float32)[:, None],
        np.full(steps, 0.1, np.float32),
        False,
    )


def test_what_does_not_vary_can_still_be_divided_by(tmp_path: Path):
    meta = StoreMeta("toy", ObservationSpec("vector", (3,), ("moves", "fixed", "mass")), ActionSpec("discrete", 3))
    columns = columns_of(
        tmp_path / "toy.h5",
        meta,
        [
            episode([[0, 7.1, 1], [1, 7.1, 1], [2, 7.1, 1]], [0, 2]),
            episode([[3, 7.1, 5], [5, 7.1, 5]], [1]),
            episode([[1e6, 0, 9], [-1e6, 1, 8]], [1]),
        ],
    )
    statistics = compute_statistics(columns, np.array([0, 1]))
    np.testing.assert_allclose(statistics.observation_mean, [11 / 5, 7.1, 13 / 5], rtol=1e-6)
    np.testing.assert_allclose(
        statistics.observation_std, np.array([np.std([0, 1, 2, 3, 5]), 1.0, np.std([1, 1, 1, 5, 5])]), rtol=1e-6
    )
    # The mass differs between episodes but does not change within one; the third episode was not asked about.
    assert statistics.observation_changes.tolist() == [True, False, False]
    # An index has no scale.
    assert (statistics.action_mean.tolist(), statistics.action_std.tolist()) == ([0.0], [1.0])
    assert statistics.reward_mean == pytest.approx(0.1)
    assert statistics.reward_std == 1.0


def test_no_episode_has_no_statistics(billiards_columns: Columns):
    with pytest.raises(UserError, match="no episode to take statistics from"):
        compute_statistics(billiards_columns, np.array([], dtype=np.int64))

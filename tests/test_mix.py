"""Several worlds in one store: nothing is lost but units, and parts and mixture agree."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from loopwm.data.cache import open_memmap
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.mix import MixConfig, filled, mix
from loopwm.data.split import Split
from loopwm.data.statistics import compute_statistics
from loopwm.data.store import Store
from loopwm.data.windows import all_windows
from loopwm.errors import UserError
from loopwm.evaluate.rollout import one_step
from loopwm.evaluate.segments import tile
from loopwm.evaluate.signals import record_loops
from loopwm.model.config import LoopConfig, ModelConfig
from loopwm.model.world_model import WorldModel
from loopwm.train.config import GateTraining
from loopwm.train.gate import Lesson


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pendulum") / "pendulum.h5"
    collect(CollectConfig("gym:Pendulum-v1", episodes=12, max_steps=40, workers=1), path)
    return path


@pytest.fixture(scope="module")
def mixed(billiards_store: Path, pendulum: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mix(MixConfig((billiards_store, pendulum), tmp_path_factory.mktemp("mixed") / "out"))


def test_worlds_of_different_shapes_share_one(mixed: Path) -> None:
    with Store.open(mixed) as store:
        assert store.meta.observation.shape == (6, 5 + 1 + 2)
        assert store.meta.observation.names[-3:] == ("present", "is billiards", "is gym-Pendulum-v1")
        assert store.meta.action.size == 2
        marks = {tuple(store.episode(i).observations[0, :, -2:].mean(0)) for i in range(store.num_episodes)}
        assert marks == {(1.0, 0.0), (0.0, 1.0)}
        last = store.episode(store.num_episodes - 1)
        # A vector is one entity of its own, the others are missing.
        assert last.observations[0, :, -3].tolist() == [1, 0, 0, 0, 0, 0]
        assert not last.observations[:, 1:, :5].any()


def test_what_was_recorded_can_be_read_back_through_the_statistics(mixed: Path, billiards_store: Path) -> None:
    with Store.open(billiards_store) as store:
        statistics, episode = compute_statistics(open_memmap(store), store.split("train")), store.episode(3)
    with Store.open(mixed.parent / "billiards.h5") as part:
        common = part.episode(3)
    moving = common.observations[:, :, :4] * statistics.observation_std[:4] + statistics.observation_mean[:4]
    np.testing.assert_allclose(moving, episode.observations[:, :, :4], atol=1e-5)
    # The mark of the cue is no measurement, and stays what it is.
    np.testing.assert_array_equal(common.observations[:, :, 4], episode.observations[:, :, 4])
    actions = common.actions * statistics.action_std + statistics.action_mean
    np.testing.assert_allclose(actions, episode.actions, atol=1e-5)
    assert common.terminated == episode.terminated


def test_an_episode_is_in_the_same_split_in_its_part_and_in_the_mixture(mixed: Path) -> None:
    with Store.open(mixed) as store:
        whole = {name: {store.fingerprints[i] for i in store.split(name)} for name in get_args(Split)}
    for part in ("billiards.h5", "gym-Pendulum-v1.h5"):
        with Store.open(mixed.parent / part) as store:
            for name, members in whole.items():
                assert {store.fingerprints[i] for i in store.split(name)} <= members


def test_a_part_lacks_the_filling_and_nothing_else(mixed: Path) -> None:
    with Store.open(mixed) as store, Store.open(mixed.parent / "gym-Pendulum-v1.h5") as part:
        # A vector is one entity.
        assert part.meta.observation.shape == (1, *store.meta.observation.shape[1:])
        assert part.meta.observation.names == store.meta.observation.names
        first = store.num_episodes - part.num_episodes
        for index in range(part.num_episodes):
            whole, alone = store.episode(first + index), part.episode(index)
            np.testing.assert_array_equal(
                filled(alone.observations, part.meta.observation.names, 6), whole.observations
            )
            np.testing.assert_array_equal(alone.actions, whole.actions)
            np.testing.assert_array_equal(alone.rewards, whole.rewards)
        twins = (store.fingerprints[first], store.episode(first).fingerprint)
        assert part.fingerprints[0] == twins[0] != twins[1]


def test_every_world_gives_as_much_as_the_shortest(mixed: Path, billiards_store: Path, pendulum: Path) -> None:
    with Store.open(billiards_store) as one, Store.open(pendulum) as other:
        least = min(one.num_transitions, other.num_transitions)
    for part in ("billiards.h5", "gym-Pendulum-v1.h5"):
        with Store.open(mixed.parent / part) as store:
            assert least <= store.num_transitions < least + 60


def test_difficulties_become_shares_of_their_own_world(billiards_store: Path, tmp_path: Path) -> None:
    collect(CollectConfig(episodes=20, max_steps=30, workers=1, seed=4), tmp_path / "other.h5")
    with pytest.raises(UserError, match="Two of the recordings are of billiards"):
        mix(MixConfig((billiards_store, tmp_path / "other.h5"), tmp_path / "out"))
    collect(CollectConfig("three-bodies", episodes=20, workers=1), tmp_path / "three.h5")
    made = mix(MixConfig((tmp_path / "other.h5", tmp_path / "three.h5"), tmp_path / "out"))
    with Store.open(made) as store, Store.open(tmp_path / "other.h5") as part:
        episode, before = store.episode(0), part.episode(0)
    shares, impulse = episode.labels["difficulty"], before.labels["impulse"]
    with Store.open(tmp_path / "other.h5") as part:
        every = np.concatenate([part.episode(i).labels["impulse"] for i in range(part.num_episodes)])
    below = [(np.mean(every < value) + np.mean(every <= value)) / 2 for value in impulse]
    np.testing.assert_allclose(shares, below, atol=1e-6)
    order = np.argsort(impulse, kind="stable")
    assert (np.diff(shares[order]) >= 0).all()


@torch.no_grad()
def test_entities_that_are_missing_count_in_no_error(mixed: Path) -> None:
    """Errors loop by loop, which exits are chosen by, and those of a gate's lessons, are those of evaluation."""
    with Store.open(mixed) as store:
        columns, spec, action = open_memmap(store), store.meta.observation, store.meta.action
        statistics = compute_statistics(columns, store.split("train"))
    torch.manual_seed(0)
    model = WorldModel(ModelConfig(width=16, heads=2, loop=LoopConfig(mu=3)), spec, action, statistics).eval()
    pendulum = np.array([store.num_episodes - 1])
    steps = tile(columns, pendulum, 1)
    expected = one_step(model, steps).observation[steps.valid]
    recorded = record_loops(model, steps, 3)
    np.testing.assert_allclose(recorded.error_after(np.full(len(expected), 3)), expected, rtol=1e-5)
    lesson = Lesson(model, GateTraining(loops=3), 1, 0.5)
    windows = all_windows(columns, pendulum, length=1)
    losses = lesson.unroll(windows, torch.ones(len(windows), 1, dtype=torch.bool))[1]
    np.testing.assert_allclose(np.sort(losses[-1, :, 0].numpy()), np.sort(expected), rtol=1e-4)


def test_a_mixture_of_mixtures_is_refused(mixed: Path, pendulum: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mixed\.h5 has entities that are not always there"):
        mix(MixConfig((mixed, pendulum), tmp_path / "out"))


def test_a_mixture_that_is_interrupted_leaves_none_of_its_parts(
    billiards_store: Path, pendulum: Path, tmp_path: Path
) -> None:
    def stopped(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mix(MixConfig((billiards_store, pendulum), tmp_path / "out", steps=40), stopped)
    assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_mixed_is_refused(billiards_store: Path, pendulum: Path, tmp_path: Path) -> None:
    collect(CollectConfig("gym:CartPole-v1", episodes=5, workers=1), tmp_path / "cartpole.h5")
    with pytest.raises(UserError, match=r"cartpole\.h5 has discrete actions; only continuous ones can be mixed"):
        mix(MixConfig((billiards_store, tmp_path / "cartpole.h5"), tmp_path / "out"))
    with pytest.raises(UserError, match="at least two recordings, got 1"):
        MixConfig((billiards_store,))
    with pytest.raises(UserError, match="steps must not be negative"):
        MixConfig((billiards_store, pendulum), steps=-1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mixed.h5").write_text("precious")
    with pytest.raises(UserError, match=r"mixed\.h5 already exists"):
        mix(MixConfig((billiards_store, pendulum), tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mixed.h5"]

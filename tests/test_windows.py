"""Windows lie inside one episode, every start is equally likely, and a restored sampler goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.data.cache import Columns
from loopwm.data.episode import Episode
from loopwm.data.store import Store, StoreMeta
from loopwm.data.windows import SamplerState, Windows, WindowSampler, all_windows
from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec

META = StoreMeta("toy", ObservationSpec("vector", (1,), ("clock",)), ActionSpec("discrete", 100), ("step",))


def clocks(lengths: list[int]) -> Columns:
    """Episodes in which every number says where it is: 1000 * episode + step; final rows hold NaN."""
    rows = sum(lengths) + len(lengths)
    offsets = np.cumsum([0, *(length + 1 for length in lengths[:-1])]).astype(np.int64)
    clock = np.zeros(rows, dtype=np.float32)
    transition = np.full(rows, np.nan, dtype=np.float32)
    for i, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        clock[offset : offset + length + 1] = 1000 * i + np.arange(length + 1)
        transition[offset : offset + length] = 1000 * i + np.arange(length)
    return Columns(
        meta=META,
        digest="",
        observation=clock[:, None],
        action=transition[:, None],
        reward=transition,
        continues=transition,
        labels={"step": transition},
        ep_len=np.array(lengths, dtype=np.int64),
        ep_offset=offsets,
        terminated=np.zeros(len(lengths), dtype=bool),
    )


def equal(left: Windows, right: Windows) -> bool:
    return (
        torch.equal(left.observations, right.observations)
        and torch.equal(left.actions, right.actions)
        and torch.equal(left.episode, right.episode)
        and torch.equal(left.start, right.start)
    )


def check_inside(windows: Windows, lengths: list[int], length: int) -> None:
    """Every number of every window is the one its episode and start promise."""
    origin = (1000 * windows.episode + windows.start)[:, None].float()
    steps = torch.arange(length + 1)
    assert torch.equal(windows.observations[..., 0], origin + steps)
    for transition in (windows.actions[..., 0], windows.rewards, windows.continues, windows.labels["step"]):
        assert torch.equal(transition, origin + steps[:-1])
    assert (windows.start + length <= torch.tensor(lengths)[windows.episode]).all()


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(0, 2**63), st.data())
def test_sampled_windows_lie_inside_the_given_episodes(lengths: list[int], length: int, seed: int, data: st.DataObject):
    indices = st.integers(0, len(lengths) - 1)
    episodes = np.array(data.draw(st.lists(indices, min_size=1, max_size=8, unique=True)))
    sampler = WindowSampler(clocks(lengths), episodes, seed)
    if max(lengths[i] for i in episodes) < length:
        with pytest.raises(UserError, match=f"window of {length} transitions does not fit"):
            sampler.sample(4, length)
        return
    windows = sampler.sample(16, length)
    check_inside(windows, lengths, length)
    assert set(windows.episode.tolist()) <= set(episodes.tolist())


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 6), st.integers(1, 4), st.integers(0, 3))
def test_all_windows_are_the_ones_a_slow_search_finds(lengths: list[int], length: int, stride: int, start: int):
    columns, episodes = clocks(lengths), np.arange(len(lengths))
    expected = [(i, k) for i, steps in enumerate(lengths) for k in range(start, steps - length + 1, stride)]
    if not expected:
        with pytest.raises(UserError, match="does not fit"):
            all_windows(columns, episodes, length, stride, start)
        return
    windows = all_windows(columns, episodes, length, stride, start)
    assert list(zip(windows.episode.tolist(), windows.start.tolist(), strict=True)) == expected
    check_inside(windows, lengths, length)


def test_every_start_is_equally_likely():
    sampler = WindowSampler(clocks([3, 9, 2, 5]), np.array([0, 1, 3]), seed=0)
    windows = sampler.sample(60_000, 3)
    keys, counts = np.unique(1000 * windows.episode + windows.start, return_counts=True)
    assert keys.tolist() == [0, *range(1000, 1007), 3000, 3001, 3002]
    expected = 60_000 / len(keys)
    # The 0.999 quantile of chi-squared with 10 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 29.6


def test_a_restored_sampler_continues_exactly(billiards_columns: Columns):
    episodes = np.arange(40)
    sampler = WindowSampler(billiards_columns, episodes, seed=11)
    for length in (8, 4, 8):
        sampler.sample(32, length)
    saved = json.loads(json.dumps(asdict(sampler.state())))
    assert saved == {"seed": 11, "draws": 3}
    following = [sampler.sample(32, 8) for _ in range(3)]
    resumed = WindowSampler(billiards_columns, episodes, seed=0)
    resumed.restore(SamplerState(**saved))
    assert all(equal(resumed.sample(32, 8), windows) for windows in following)


def test_seeds_decide_the_windows(billiards_columns: Columns):
    episodes = np.arange(40)
    draws = [WindowSampler(billiards_columns, episodes, seed).sample(32, 8) for seed in (1, 1, 2)]
    assert equal(draws[0], draws[1])
    assert not equal(draws[0], draws[2])


def test_consecutive_draws_differ(billiards_columns: Columns):
    sampler = WindowSampler(billiards_columns, np.arange(40), seed=1)
    assert not equal(sampler.sample(32, 8), sampler.sample(32, 8))


def test_windows_of_a_recording_are_slices_of_its_episodes(billiards_store: Path, billiards_columns: Columns):
    windows = WindowSampler(billiards_columns, np.arange(60), seed=0).sample(50, 6)
    assert windows.observations.shape == (50, 7, 6, 5)
    assert windows.actions.shape == (50, 6, 2)
    with Store.open(billiards_store) as store:
        for row, (index, start) in enumerate(zip(windows.episode.tolist(), windows.start.tolist(), strict=True)):
            episode: Episode = store.episode(index)
            at = slice(start, start + 6)
            np.testing.assert_array_equal(windows.observations[row], episode.observations[start : start + 7])
            np.testing.assert_array_equal(windows.actions[row], episode.actions[at])
            np.testing.assert_array_equal(windows.rewards[row], episode.rewards[at])
            np.testing.assert_array_equal(windows.continues[row], episode.continues[at])
            np.testing.assert_array_equal(windows.labels["impulse"][row], episode.labels["impulse"][at])


def test_a_batch_can_be_cut_and_moved(billiards_columns: Columns):
    windows = all_windows(billiards_columns, np.arange(60), 5)
    part = windows[10:14].to("cpu")
    assert len(part) == 4
    assert torch.equal(part.labels["contacts"], windows.labels["contacts"][10:14])
    assert equal(windows[torch.tensor([11, 10])][torch.tensor([1])], windows[10:11])


def test_impossible_requests_are_explained():
    columns = clocks([4, 6])
    with pytest.raises(UserError, match="longest of 2 episodes has 6; ask for a shorter window"):
        WindowSampler(columns, np.arange(2), 0).sample(8, 7)
    with pytest.raises(UserError, match="at least 1 transition, got 0"):
        WindowSampler(columns, np.arange(2), 0).sample(8, 0)
    with pytest.raises(UserError, match="no episode to take windows from"):
        all_windows(columns, np.array([], dtype=np.int64), 2)
    with pytest.raises(UserError, match="stride of at least 1"):
        all_windows(columns, np.arange(2), 2, stride=0)
    with pytest.raises(UserError, match="seed must not be negative"):
        WindowSampler(columns, np.arange(2), -1)

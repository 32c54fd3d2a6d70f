"""Episode-bootstrap intervals against brute force, theory and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.depth import area_under_curve
from loopwm.evaluate.matching import ranks


def episodes_of(num_episodes: int, length: int) -> np.ndarray:
    return np.repeat(np.arange(num_episodes), length)


def by_hand(bootstrap: Bootstrap, episode: np.ndarray, statistic) -> np.ndarray:
    """Every resample really put together, episode by episode."""
    found = []
    for draws in bootstrap.draws:
        rows = [
            np.flatnonzero(episode == e)
            for e, times in zip(bootstrap.ids, draws, strict=True)
            for _ in range(int(times))
        ]
        found.append(statistic(np.concatenate(rows)))
    return np.array(found)


@pytest.fixture
def uneven() -> tuple[np.ndarray, np.ndarray]:
    """Episode ids and values; episodes of different lengths that are not contiguous."""
    rng = np.random.default_rng(1)
    episode = rng.integers(0, 12, 90) * 7
    return episode, rng.exponential(size=90) + episode / 40


def test_mean_equals_resampling_episodes_by_hand(uneven):
    episode, values = uneven
    bootstrap = Bootstrap(episode, resamples=200, seed=3)
    found = bootstrap.mean(values)
    means = by_hand(bootstrap, episode, lambda rows: values[rows].mean())
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025, method="lower"))
    assert found.high == pytest.approx(np.quantile(means, 0.975, method="higher"))
    assert (found.n, found.episodes) == (90, len(np.unique(episode)))


def test_ratio_resamples_both_sides_together(uneven):
    episode, values = uneven
    other = 2 * values + np.random.default_rng(0).normal(0, 0.1, len(values))
    bootstrap = Bootstrap(episode, resamples=200)
    ratios = by_hand(bootstrap, episode, lambda rows: values[rows].mean() / other[rows].mean())
    found = bootstrap.ratio(values, other)
    assert found.mean == pytest.approx(values.mean() / other.mean())
    assert found.low == pytest.approx(np.quantile(ratios, 0.025, method="lower"))
    # Episodes differ a lot, but the two sides differ alike: pairing must remove that.
    spread = bootstrap.mean(values)
    assert (found.high - found.low) / found.mean < 0.2 * (spread.high - spread.low) / spread.mean


def test_correlation_equals_numpy(uneven):
    episode, values = uneven
    other = values**2 + np.random.default_rng(0).normal(0, 1.0, len(values))
    bootstrap = Bootstrap(episode, resamples=100)
    found = bootstrap.correlation(values, other)
    resampled = by_hand(bootstrap, episode, lambda rows: np.corrcoef(values[rows], other[rows])[0, 1])
    assert found.mean == pytest.approx(np.corrcoef(values, other)[0, 1])
    assert found.high == pytest.approx(np.quantile(resampled, 0.975, method="higher"))


def test_area_under_curve_equals_counting_pairs(uneven):
    episode, _ = uneven
    rng = np.random.default_rng(5)
    score, positive = rng.integers(0, 6, 90).astype(float), rng.random(90) < 0.2
    bootstrap = Bootstrap(episode, resamples=60)

    def area(rows: np.ndarray) -> float:
        high, low = score[rows][positive[rows]], score[rows][~positive[rows]]
        return np.nan if len(high) == 0 else np.mean((high[:, None] > low) + 0.5 * (high[:, None] == low))

    found = area_under_curve(bootstrap, score, positive)
    resampled = by_hand(bootstrap, episode, area)
    assert found is not None
    assert found.mean == pytest.approx(area(np.arange(90)))
    assert found.low == pytest.approx(np.quantile(resampled, 0.025, method="lower"))
    assert area_under_curve(bootstrap, score, np.zeros(90, bool)) is None


def test_interval_agrees_with_the_normal_approximation_for_independent_episodes():
    values = np.random.default_rng(0).normal(3.0, 1.0, 900)
    found = Bootstrap(np.arange(900), resamples=4000).mean(values)
    expected = 1.96 * values.std() / np.sqrt(900)
    assert found.high - found.mean == pytest.approx(expected, rel=0.08)
    assert found.mean - found.low == pytest.approx(expected, rel=0.08)


def test_interval_is_not_narrowed_by_transitions_that_repeat_their_episode():
    per_episode = np.random.default_rng(0).normal(size=60)
    alone = Bootstrap(np.arange(60)).mean(per_episode)
    repeated = Bootstrap(episodes_of(60, 50)).mean(np.repeat(per_episode, 50))
    assert repeated.low == pytest.approx(alone.low)
    assert repeated.high == pytest.approx(alone.high)
    assert (repeated.n, repeated.episodes) == (3000, 60)


def test_interval_covers_the_truth_about_as_often_as_it_claims():
    rng, hits = np.random.default_rng(2), 0
    for trial in range(300):
        values = np.repeat(rng.normal(size=50), 4) + rng.normal(size=200)
        found = Bootstrap(episodes_of(50, 4), resamples=300, seed=trial).mean(values)
        hits += found.low <= 0.0 <= found.high
    assert 0.90 <= hits / 300 <= 0.99


def test_nan_values_do_not_count():
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, np.nan])
    found = Bootstrap(np.array([0, 0, 1, 1, 2, 2]), resamples=50).mean(values)
    assert (found.mean, found.n, found.episodes) == (2.0, 2, 2)


def test_an_infinite_error_is_never_averaged_away():
    values = np.ones(40)
    values[7] = np.inf
    found = Bootstrap(episodes_of(10, 4), resamples=500).mean(values)
    assert found.mean == np.inf
    assert found.high == np.inf
    # About a third of the resamples miss the one bad episode.
    assert found.low == 1.0


def test_columns_share_their_resamples_and_count_separately():
    values = np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 7.0]])
    left, right = Bootstrap(np.arange(3), resamples=100).means(values)
    assert (left.mean, left.n) == (2.0, 3)
    assert (right.mean, right.n) == (6.0, 2)


def test_the_same_seed_gives_the_same_interval(uneven):
    episode, values = uneven
    assert Bootstrap(episode, seed=4).mean(values) == Bootstrap(episode, seed=4).mean(values)
    assert Bootstrap(episode, seed=4).mean(values) != Bootstrap(episode, seed=5).mean(values)


def test_root_of_an_interval():
    assert Interval(4.0, 1.0, 9.0, 5, 2).root() == Interval(2.0, 1.0, 3.0, 5, 2)


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=30),
    scale=st.floats(0.01, 100.0),
    shift=st.floats(-100.0, 100.0),
)
def test_interval_follows_a_change_of_units(values, scale, shift):
    array = np.array(values)
    bootstrap = Bootstrap(np.arange(len(array)) // 2, resamples=50)
    plain, changed = bootstrap.mean(array), bootstrap.mean(scale * array + shift)
    for one, other in ((plain.mean, changed.mean), (plain.low, changed.low), (plain.high, changed.high)):
        assert other == pytest.approx(scale * one + shift, rel=1e-6, abs=1e-6 * (1 + scale))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_ranks_share_ties(values):
    array = np.array(values, float)
    expected = [(array < v).sum() + ((array == v).sum() + 1) / 2 for v in array]
    assert ranks(array) == pytest.approx(expected)

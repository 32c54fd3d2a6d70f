"""Difficulty bins, and the comparison at matched size of the target."""

from __future__ import annotations

import numpy as np
import pytest

from loopwm.evaluate.bootstrap import Bootstrap
from loopwm.evaluate.matching import (
    Matching,
    difficulty_bins,
    matched_rank_correlation,
    rank_correlation,
)


@pytest.fixture
def confounded() -> tuple[np.ndarray, np.ndarray, Bootstrap]:
    """Contacts (n,) and target norms (n,) that grow with them, as in billiards."""
    rng = np.random.default_rng(0)
    contacts = rng.poisson(2.0, 12_000)
    norm = 0.15 + 0.3 * contacts + rng.exponential(0.35, len(contacts))
    return contacts.astype(float), norm, Bootstrap(np.arange(len(contacts)) // 30, resamples=200)


def test_counts_are_binned_as_0_1_2_3_4to5_6up():
    bins = difficulty_bins("contacts", np.array([0, 1, 2, 3, 4, 5, 6, 7, 14.0]))
    assert bins.names == ("0", "1", "2", "3", "4-5", "6+")
    assert bins.index.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 5]


def test_counts_that_begin_high_are_binned_by_quantiles():
    # Evaluations of an integrator: whole numbers, none of them small.
    bins = difficulty_bins("evaluations", np.array([26.0, 26, 38, 38, 50, 50, 62, 62, 74, 74]))
    assert len(bins.names) == 5
    assert bins.index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("values", "names", "index"),
    [
        ([1.5] * 4, ("1.5",), [0] * 4),
        ([-2.0] * 4, ("-2",), [0] * 4),
        ([7.0] * 4, ("7",), [0] * 4),
        ([0.0, 2.5, 0.0, 2.5], ("0", "2.5"), [0, 1, 0, 1]),
    ],
)
def test_a_label_of_one_value_or_two_has_as_many_bins(values: list[float], names: tuple[str, ...], index: list[int]):
    bins = difficulty_bins("force", np.array(values))
    assert bins.names == names and bins.index.tolist() == index


def test_counts_that_do_not_occur_get_no_bin():
    assert difficulty_bins("contacts", np.array([0.0, 0, 2, 3])).names == ("0", "2", "3")
    assert difficulty_bins("contacts", np.zeros(5)).names == ("0",)


def test_a_continuous_label_gets_zero_and_equal_shares():
    rng = np.random.default_rng(0)
    impulse = np.where(rng.random(1000) < 0.2, 0.0, rng.exponential(size=1000))
    bins = difficulty_bins("impulse", impulse)
    counts = np.bincount(bins.index)
    assert bins.names[0] == "0"
    assert counts[0] == (impulse == 0).sum()
    assert counts[1:].max() - counts[1:].min() <= 1
    assert all(impulse[bins.index == g].max() <= impulse[bins.index == g + 1].min() for g in range(5))


def test_an_error_that_only_follows_size_is_unrelated_to_difficulty_once_matched(confounded):
    contacts, norm, bootstrap = confounded
    error = norm**2
    bins = difficulty_bins("contacts", contacts)
    plain = [error[bins.index == g].mean() for g in range(len(bins.names))]
    assert plain[-1] > 5 * plain[0]
    for found in Matching(bins, norm, bootstrap).relative(error):
        assert found is not None
        assert found.mean == pytest.approx(1.0, abs=0.1)
    assert rank_correlation(bootstrap, contacts, error).mean > 0.6
    assert abs(matched_rank_correlation(bootstrap, contacts, error, norm).mean) < 0.05


def test_difficulty_beyond_size_is_found_with_its_magnitude(confounded):
    contacts, norm, bootstrap = confounded
    error = norm**2 * np.where(contacts >= 6, 1.5, 1.0)
    bins = difficulty_bins("contacts", contacts)
    found = Matching(bins, norm, bootstrap).relative(error)[-1]
    assert found is not None
    assert found.low < 1.5 < found.high or found.mean == pytest.approx(1.5, rel=0.08)
    assert found.low > 1.3
    assert matched_rank_correlation(bootstrap, contacts, error, norm).low > 0.02


def test_relative_error_equals_the_formula(confounded):
    contacts, norm, bootstrap = confounded
    error = np.random.default_rng(3).exponential(norm)
    bins = difficulty_bins("contacts", contacts)
    cuts = np.quantile(norm, np.linspace(0, 1, 9)[1:-1])
    stratum = np.digitize(norm, cuts)
    inside = bins.index == 2
    observed = expected = 0.0
    for s in range(8):
        here, others = inside & (stratum == s), ~inside & (stratum == s)
        if others.sum() >= 5:
            observed += error[here].sum()
            expected += here.sum() * error[others].mean()
    found = Matching(bins, norm, bootstrap, strata=8).relative(error)[2]
    assert found is not None
    assert found.mean == pytest.approx(observed / expected)


def test_transitions_without_a_counterpart_are_left_out_and_counted():
    contacts = np.repeat([0.0, 1.0], 100)
    norm = np.concatenate([np.linspace(0.0, 1.0, 100), np.linspace(0.5, 1.5, 100)])
    bins, bootstrap = difficulty_bins("contacts", contacts), Bootstrap(np.arange(200) // 4, resamples=50)
    matching = Matching(bins, norm, bootstrap, strata=6)
    assert matching.shares == pytest.approx((0.5, 0.5), abs=0.18)
    far = Matching(bins, np.where(contacts == 0, norm, norm + 9), bootstrap, strata=2)
    assert far.shares == (0.0, 0.0)
    assert far.relative(norm) == [None, None]


def test_gain_is_compared_with_the_gain_of_equally_large_changes(confounded):
    contacts, norm, bootstrap = confounded
    shallow = norm**2
    # All loops together halve every error, and quarter that of six and more contacts.
    deep = shallow * np.where(contacts >= 6, 0.25, 0.5)
    bins = difficulty_bins("contacts", contacts)
    gains = Matching(bins, norm, bootstrap).relative_gain(deep, shallow)
    assert gains[0] is not None and gains[-1] is not None
    assert gains[0].mean == pytest.approx(1.0, abs=0.03)
    assert gains[-1].mean == pytest.approx(0.5, abs=0.03)

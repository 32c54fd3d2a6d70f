"""Tests of the claim behind a calibrated exit: how often is a mean called negative that is not."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.calibrate.bounds import PValue, betting_p_value, choose, coverage, fewest_episodes, normal_p_value


def test_wealth_is_the_product_a_gambler_would_have_by_hand() -> None:
    values, largest = np.array([-0.5, 0.2, -0.4]), 1.0
    wealth, best, shown = 1.0, 1.0, []
    for value in values:
        mean = -sum(shown) / (len(shown) + 1)
        square = (0.25 + sum(x * x for x in shown)) / (len(shown) + 1)
        bet = min(max(mean / square, 0.0), 0.9) if shown else 0.0
        wealth *= 1 - bet * value
        best = max(best, wealth)
        shown.append(float(value))
    found = betting_p_value(values[:, None], np.array([largest]))
    assert found == pytest.approx([1 / best])
    assert best > 1


def test_the_normal_p_value_is_that_of_a_one_sided_z_test() -> None:
    values = np.random.default_rng(0).normal(-0.1, 1.0, (200, 3))
    z = values.mean(0) / (values.std(0, ddof=1) / np.sqrt(200))
    np.testing.assert_allclose(
        normal_p_value(values, np.ones(3)), [NormalDist().cdf(float(value)) for value in z], rtol=1e-9
    )


@pytest.mark.parametrize("low", [-0.2, -1.0, -9.0])
def test_a_mean_of_zero_is_called_negative_no_more_often_than_promised(low: float) -> None:
    # Two-point values with mean exactly zero, the hardest case; every column is one repetition.
    draws = np.random.default_rng(1).random((400, 4000))
    p = betting_p_value(np.where(draws < -low / (1 - low), 1.0, low), np.ones(4000))
    # 4000 repetitions: three standard deviations above 5% is 6%.
    assert (p <= 0.05).mean() <= 0.06


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_values_that_are_never_negative_are_never_evidence_of_a_negative_mean(values: list[float]) -> None:
    assert betting_p_value(np.array(values)[:, None], np.array([1.0])) == pytest.approx([1.0])


def test_clear_evidence_is_found_and_more_of_it_makes_it_clearer() -> None:
    values = np.random.default_rng(2).uniform(-0.3, 0.1, (400, 1))
    p = [float(betting_p_value(values[:n], np.array([1.0]))[0]) for n in (20, 100, 400)]
    assert p[0] > p[1] > p[2]
    assert p[2] < 1e-6


@pytest.mark.parametrize("method", [betting_p_value, normal_p_value])
def test_errors_that_are_no_numbers_are_no_evidence(method: PValue) -> None:
    full, harm = np.ones((400, 1)), np.full((400, 1, 1), -0.5)
    assert choose(full, harm, np.ones((1, 1)), 0.1, 0.9, method).chosen == 0
    harm[3] = np.nan
    assert choose(full, harm, np.ones((1, 1)), 0.1, 0.9, method).chosen is None


def world(episodes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two errors per episode at full depth, what six exits add (0, 0.4, 0.8, 1.2, 3 and 10% on average), and limits."""
    rng = np.random.default_rng(seed)
    full = rng.gamma(4.0, 0.05, (episodes, 2))
    extra = np.array([0.0, 0.004, 0.008, 0.012, 0.03, 0.1])
    noise = rng.gamma(0.5, 2.0, (episodes, 6, 2))
    return full, full[:, None] * extra[:, None] * noise, np.full((6, 2), 0.6)


def test_the_cheapest_candidate_within_the_tolerance_is_chosen_when_there_is_data_enough() -> None:
    full, harm, largest = world(60_000)
    choice = choose(full, harm, largest, excess=0.01, confidence=0.95)
    assert choice.chosen == 2
    assert choice.p[0] < choice.p[2] < 0.05 < choice.p[3]


def test_a_tighter_limit_on_harm_needs_fewer_episodes() -> None:
    full, harm, largest = world(1000)
    assert choose(full, harm, largest, excess=0.01, confidence=0.95).chosen is None
    assert choose(full, harm, largest / 20, excess=0.01, confidence=0.95).chosen in (1, 2)


def test_harm_beyond_the_limit_counts_as_the_limit() -> None:
    full, harm, largest = np.full((4000, 1), 0.2), np.zeros((4000, 1, 1)), np.full((1, 1), 0.01)
    harm[::100] = 50.0
    # 1% of the episodes count with 0.01: 0.0001 on average, against 0.002 tolerated.
    assert choose(full, harm, largest, excess=0.01, confidence=0.95).chosen == 0
    harm[::3] = 50.0
    assert choose(full, harm, largest, excess=0.01, confidence=0.95).chosen is None


def test_a_candidate_must_be_good_by_every_measure() -> None:
    full, harm, largest = world(60_000)
    harm[:, 1, 1] = harm[:, 5, 1]
    assert choose(full, harm, largest, excess=0.01, confidence=0.95).chosen == 0


def test_testing_stops_at_the_first_failure_even_if_a_later_candidate_would_pass() -> None:
    full, harm, largest = world(60_000)
    harm[:, 1] = harm[:, 5]
    assert choose(full, harm, largest, excess=0.01, confidence=0.95).chosen == 0


def test_fewer_episodes_than_the_least_number_are_refused_and_that_number_is_enough_for_a_free_exit() -> None:
    error, largest = 0.2, 0.6
    n = fewest_episodes(error, largest, 0.01, 0.95)
    for episodes, chosen in ((n // 2, None), (3 * n, 0)):
        full = np.full((episodes, 1), error)
        harm = np.zeros((episodes, 1, 1))
        assert choose(full, harm, np.array([[largest]]), 0.01, 0.95).chosen == chosen


@pytest.mark.parametrize("episodes", [300, 4000])
def test_repeated_calibration_is_right_at_least_as_often_as_it_claims(episodes: int) -> None:
    full, harm, largest = world(20_000)
    right, claimed = coverage(full, harm, largest, 0.01, 0.95, episodes=episodes, resamplings=200)
    assert right >= 0.95
    if episodes == 4000:
        assert claimed >= 0.9


def test_coverage_sees_a_method_that_is_wrong() -> None:
    full, harm, largest = world(20_000)
    right, _ = coverage(
        full, harm, largest, 0.01, 0.95, episodes=300, method=lambda values, _: np.zeros(values.shape[1])
    )
    assert right == 0.0

"""The opening lines of a report are decided by its numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from three_systems import SPEED

from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.comparison import Comparison, Paired, compare
from loopwm.evaluate.evaluation import Curve, Evaluation, read_evaluation
from loopwm.evaluate.findings import findings, lead_over, number, percent
from loopwm.evaluate.plots import SERIES, Axis, Line, line_figure


@pytest.fixture(scope="module")
def evaluations(evaluated) -> list[Evaluation]:
    return [read_evaluation(run) for run in evaluated]


@pytest.fixture(scope="module")
def comparison(evaluated) -> Comparison:
    return compare(evaluated, SPEED)


def with_ratio(comparison: Comparison, ratio: Interval | None, open_loop: Interval | None = None) -> Comparison:
    pairs = tuple(Paired(pair.run, pair.reference, ratio, open_loop) for pair in comparison.pairs)
    return replace(comparison, pairs=pairs)


def about(mean: float, width: float = 0.01) -> Interval:
    return Interval(mean, mean - width, mean + width, 250, 5)


@pytest.mark.parametrize(
    ("ratio", "open_loop", "verdict", "words"),
    [
        (about(0.9), None, "better", "10% less error than the equal-FLOP stack"),
        (about(1.1), None, "worse", "10% MORE error than the equal-FLOP stack"),
        (about(1.002), None, "tie", "no clear difference from the equal-FLOP stack"),
        (about(0.9), about(1.2), "mixed", "20% MORE error"),
        (about(1.0), about(0.8), "better", "20% less error"),
        (about(1.1), about(1.0), "worse", "no clear difference"),
        (None, None, "unknown", "evaluate both again"),
    ],
)
def test_the_comparison_with_a_stack_is_decided_by_its_interval(
    evaluations, comparison, ratio, open_loop, verdict, words
):
    line = findings(evaluations, with_ratio(comparison, ratio, open_loop))[0]
    assert line.verdict == verdict
    assert words in line.text


def with_depth(one: Evaluation, shallow: Interval, deepest: Interval) -> Evaluation:
    points = list(one.depth)
    points[0] = replace(points[0], relative=shallow)
    points[-1] = replace(points[-1], relative=deepest)
    return replace(one, depth=tuple(points))


@pytest.mark.parametrize(
    ("shallow", "deepest", "verdict", "words"),
    [
        (
            about(2.0),
            about(1.001, 0.0005),
            "better",
            "remove 50% of the error that one loop leaves; at 16 loops the error is the same",
        ),
        (about(2.0), about(1.3), "mixed", "at 16 loops the error is 30% HIGHER (overthinking)"),
        (about(2.0), about(0.9), "better", "at 16 loops the error is 10% lower"),
        (about(1.0), about(1.0), "worse", "The loops are IGNORED"),
    ],
)
def test_the_line_on_loops_says_when_they_are_ignored_or_overdone(
    evaluations, comparison, shallow, deepest, verdict, words
):
    leading = with_depth(evaluations[0], shallow, deepest)
    line = findings([leading, *evaluations[1:]], comparison)[2]
    assert line.verdict == verdict
    assert words in line.text


def curve(name: str, kind, values) -> Curve:
    return Curve(name, kind, tuple(about(value) for value in values), {})


@pytest.mark.parametrize(
    ("model", "control", "verdict", "words"),
    [
        ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], "better", "beats every control at all 3 steps"),
        ([0.1, 0.6, 0.7], [0.5, 0.5, 0.5], "mixed", "beats every control for 1 step and LOSES from step 2 on"),
        ([0.6, 0.1, 0.1], [0.5, 0.5, 0.5], "worse", "LOSES to a simple control from the outset"),
        ([0.1, math.nan, 0.1], [0.5, 0.5, 0.5], "mixed", "LOSES from step 2 on"),
    ],
)
def test_the_line_on_imagination_says_from_where_on_a_control_wins(
    evaluations, comparison, model, control, verdict, words
):
    horizon = (
        curve("imagined", "model", model),
        curve("a", "control", control),
        curve("b", "control", [9.0, 9.0, 9.0]),
    )
    leading = replace(evaluations[0], horizon=horizon)
    line = findings([leading], replace(comparison, pairs=()))[3]
    assert line.verdict == verdict
    assert words in line.text
    assert "(a)" in line.text


def test_a_lead_ends_where_any_control_is_as_good():
    model = curve("m", "model", [0.1, 0.2, 0.3])
    assert lead_over(model, [curve("a", "control", [1, 1, 1]), curve("b", "control", [1, 0.2, 1])]) == 1


def test_failures_name_broken_numbers_hard_transitions_slowness_and_the_task(evaluations, comparison):
    leading = evaluations[0]
    task = replace(leading.task, brier=about(0.9), brier_base=0.1, reward=about(0.9), reward_variance=0.1)
    broken = replace(leading, nonfinite=3, task=task)
    slow = replace(comparison.speed[0][-1], decoded_median=3 * comparison.speed[1][-1].decoded_median)
    slower = replace(comparison, speed=((comparison.speed[0][0], slow), *comparison.speed[1:]))
    line = findings([broken, *evaluations[1:]], slower)[4]
    assert line.verdict == "fails"
    for words in (
        "3 predicted numbers were NaN or infinite",
        "3.00 times as long as one of the equal-parameter stack (batch 4)",
        "the end of an episode is predicted no better than by its base rate",
        "the reward is predicted no better than by its mean",
    ):
        assert words in line.text
    assert re.search(r"transitions with \S+ contacts have \d+ times the error of those with 0", line.text)


def test_numbers_are_written_for_people():
    assert [number(value) for value in (0.23149, 12.3456, 250.0, 123456.0, 1.3)] == [
        "0.231",
        "12.3",
        "250",
        "123,456",
        "1.30",
    ]
    assert [percent(value) for value in (0.394, 0.0234, 1.0)] == ["39%", "2.3%", "100%"]


def test_a_curve_that_is_not_finite_can_be_drawn():
    lines = [
        Line("a", [1, 2, 3], [0.1, math.nan, 0.3], SERIES[0]),
        Line("b", [1, 2], [about(0.2), about(0.3)], SERIES[1]),
    ]
    drawing = line_figure("f", lines, Axis("x"), Axis("y", log=True))
    assert ">a</text>" in drawing and "var(--series-1)" in drawing

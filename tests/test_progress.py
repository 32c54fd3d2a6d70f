"""How far a long job is, as shown to whoever waits for it."""

from __future__ import annotations

import io
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from loopwm.progress import Pace, ProgressConfig, TerminalProgress, duration


class Clock:
    """Time that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal, as a console does."""

    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_one_plain_line_every_few_seconds_and_the_last_one_always():
    clock, stream = Clock(), io.StringIO()
    with TerminalProgress("training", "update", ProgressConfig(every=10.0), stream, clock) as progress:
        for done in range(1, 101):
            progress.advance(done, 100, loss=1.0 / done)
            clock.now += 0.25  # 100 updates in 25 s
    assert stream.getvalue().splitlines() == [
        "training 1/100 loss 1",
        "training 41/100 4 updates/s, 0:15 left, loss 0.02439",
        "training 81/100 4 updates/s, 0:05 left, loss 0.01235",
        "training 100/100 4 updates/s, 0:00 left, loss 0.01",
    ]


def test_the_end_is_said_once():
    stream = io.StringIO()
    with TerminalProgress("training", "update", stream=stream, clock=Clock()) as progress:
        for done in (1, 2, 3, 3, 3):
            progress.advance(done, 3)
    assert stream.getvalue().splitlines() == ["training 1/3 updates", "training 3/3 updates"]


def test_a_terminal_gets_a_bar_that_ends_complete():
    clock, stream = Clock(), Terminal()
    with TerminalProgress("recording", "episode", stream=stream, clock=clock) as progress:
        for done in range(1, 11):
            clock.now += 2.0
            progress.advance(done, 10)
    shown = stream.getvalue()
    assert "recording" in shown
    assert "10/10" in shown
    assert "2 s/episode, 0:00 left" in shown


def test_the_pace_of_a_resumed_job_counts_only_what_this_run_did():
    pace = Pace()
    pace.update(0.0, 5_000)
    assert (pace.rate, pace.remaining(6_000)) == (0.0, inf)
    pace.update(10.0, 5_100)
    assert (pace.rate, pace.remaining(6_000)) == (10.0, 90.0)


def test_workers_that_are_done_at_once_say_nothing_of_the_pace():
    pace = Pace()
    pace.update(5.0, 1_000)
    pace.update(5.00005, 2_000)
    assert (pace.rate, pace.remaining(2_000)) == (0.0, inf)


def test_the_pace_forgets_a_slow_start():
    pace = Pace(window=30.0)
    pace.update(0.0, 0)
    pace.update(100.0, 1)
    for second in range(101, 200):
        pace.update(float(second), 1 + 5 * (second - 100))
    assert pace.rate == 5.0


@given(st.integers(min_value=0, max_value=10**6))
def test_a_duration_reads_back_to_the_same_seconds(seconds: int):
    parts = [int(part) for part in duration(seconds).split(":")]
    assert sum(part * 60**power for power, part in enumerate(reversed(parts))) == seconds
    assert all(part < 60 for part in parts[1:])

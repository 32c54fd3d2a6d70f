"""Ctrl-C waits for a moment at which stopping is safe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from loopwm.interrupts import deferred_interrupt, interrupted_between, sparing_children, stopping_between_units


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def state() -> tuple[object, object, set[int]]:
    """What a signal would do in this process."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), set(mask)


def test_an_interrupt_waits_until_it_is_looked_for():
    before = state()
    with deferred_interrupt() as stopped:
        press_ctrl_c()
        assert stopped.is_set()
    assert state() == before


def test_a_second_interrupt_does_not_wait():
    before = state()
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        press_ctrl_c()
        press_ctrl_c()
    assert state() == before


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """What a shell starts in the background ignores Ctrl-C, and these tests are about who does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["alone", "beside another thread"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """A thread that would take the signals which the main thread blocks, or none."""
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    if request.param != "alone":
        other.start()
    yield
    ended.set()
    if other.ident is not None:
        other.join()


@pytest.mark.usefixtures("threads")
def test_programs_started_meanwhile_are_spared_and_the_interrupt_comes_afterwards():
    before, ended = state(), []
    with pytest.raises(KeyboardInterrupt), sparing_children():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"], start_new_session=True)
        # Before it runs anything of its own, as well as after.
        for _ in range(5):
            os.killpg(child.pid, signal.SIGINT)
            time.sleep(0.05)
        press_ctrl_c()
        ended.append(child.wait())
    assert ended == [0]
    assert state() == before


def test_an_interrupt_comes_between_units_and_a_second_while_one_is_made():
    made, taken = [], []

    def units(presses: int) -> Iterator[int]:
        for number in range(3):
            for _ in range(presses if number == 1 else 0):
                press_ctrl_c()
            made.append(number)
            yield number

    before = state()
    for presses in (1, 2):
        with pytest.raises(KeyboardInterrupt), interrupted_between(units(presses)) as remaining:
            taken += remaining
    # The first waits until the unit is made, the second does not.
    assert made == [0, 1, 0] and taken == [0, 0]
    with pytest.raises(KeyboardInterrupt), interrupted_between(units(0)) as remaining:
        for number in remaining:
            press_ctrl_c()
            press_ctrl_c()
            taken.append(number)
    assert taken == [0, 0, 0] and state() == before


def test_a_job_is_stopped_after_the_unit_in_which_the_interrupt_came():
    before, reached, counted = state(), [], []
    with (
        pytest.raises(KeyboardInterrupt),
        stopping_between_units(lambda done, total: counted.append((done, total))) as advance,
    ):
        for unit in range(1, 5):
            if unit == 3:
                press_ctrl_c()
            reached.append(unit)
            advance(unit, 4)
    assert reached == [1, 2, 3]
    assert counted == [(1, 4), (2, 4)]
    assert state() == before


def test_an_interrupt_before_the_end_of_the_earliest_unit_stops_after_it():
    reached = []
    with pytest.raises(KeyboardInterrupt), stopping_between_units(lambda done, total: None) as advance:
        press_ctrl_c()
        reached.append("still working")
        advance(1, 2)
        reached.append("too far")
    assert reached == ["still working"]

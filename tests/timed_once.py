"""Times of text windows that nobody reads: one window is timed instead of fifty."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from loopwm.text.benchmark import looping


@contextmanager
def timed_once() -> Iterator[pytest.MonkeyPatch]:
    """Within it."""
    timed = looping._timed

    def once(model: Any, early: Any, windows: Any, config: looping.LoopingConfig) -> looping.Milliseconds:
        return timed(model, early, windows, replace(config, timed=1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looping, "_timed", once)
        yield patch

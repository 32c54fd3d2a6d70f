"""Processes that tests start in a session of their own, to see that none is left behind."""

from __future__ import annotations

import os
import time


def session_is_empty(session: int, patience: float = 15.0) -> bool:
    """Wait until no process of the session is left."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False

"""The two ways loopwm gives up, and the exit codes they map to."""

from __future__ import annotations


class LoopwmError(Exception):
    """Something went wrong that the user did not cause (no space left, a dead worker). Exit code 1."""

    exit_code = 1


class UserError(LoopwmError):
    """Bad input. The message is one sentence: what, where, and what to do. Exit code 2."""

    exit_code = 2


class Missing(UserError):
    """Something that all games of a world need is not installed, or not there."""

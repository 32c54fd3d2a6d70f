"""Worlds that loopwm records and plans in."""

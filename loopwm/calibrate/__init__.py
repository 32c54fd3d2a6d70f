"""Thresholds of exit rules with a guarantee on the error they add."""

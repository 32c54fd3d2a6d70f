"""Measuring a trained world model: errors with intervals, controls, diagnostics and the report."""

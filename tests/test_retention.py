"""Eq. 6-7: the retention stays inside (0, 1), whatever training does to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopwm.model.retention import Retention


@pytest.mark.parametrize("abar", [0.2, 0.447, 0.607, 0.779])
def test_every_channel_starts_at_the_asked_retention(abar: float) -> None:
    retention = Retention(8, abar)
    got, gain = retention.discretise()
    torch.testing.assert_close(got, torch.full((8,), abar))
    torch.testing.assert_close(gain, torch.ones(8))


def test_the_discretisation_is_the_zero_order_hold_of_the_linear_system() -> None:
    """h' = A h + x over a time Delta, integrated by many tiny Euler steps, must give Abar h + (1 - Abar) exp(-a) x."""
    torch.manual_seed(0)
    retention = Retention(4, 0.6).double()
    retention.a.data = torch.tensor([-1.0, -0.2, 0.3, 1.0], dtype=torch.float64)
    h, x = torch.randn(2, 4, dtype=torch.float64)
    abar, gain = retention.discretise()
    fine, steps = h.clone(), 100_000
    for _ in range(steps):
        fine = fine + retention.delta / steps * (-retention.a.exp() * fine + x)
    torch.testing.assert_close(abar * h + (1 - abar) * gain * x, fine, rtol=1e-4, atol=1e-4)


@given(step=st.floats(-1e30, 1e30), which=st.sampled_from(["a", "raw_delta", "both"]))
def test_abar_stays_inside_zero_and_one_after_an_enormous_gradient_step(step: float, which: str) -> None:
    retention = Retention(4, 0.607)
    with torch.no_grad():
        for name in ("a", "raw_delta") if which == "both" else (which,):
            getattr(retention, name).add_(step)
    abar, gain = retention.discretise()
    assert bool(((abar > 0) & (abar < 1)).all())
    assert bool(gain.isfinite().all()) and bool((gain > 0).all())

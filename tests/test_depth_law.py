"""How many loops training draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.model.config import LoopConfig
from loopwm.model.depth import sample_loops


@settings(max_examples=50, deadline=None)
@given(
    mu=st.integers(1, 12),
    batch=st.integers(1, 300),
    seed=st.integers(0, 10_000),
    law=st.sampled_from(["poisson", "lognormal-poisson", "fixed"]),
    depths=st.integers(0, 20),
)
def test_depths_lie_between_one_and_four_mu_and_come_largest_first(
    mu: int, batch: int, seed: int, law: str, depths: int
) -> None:
    config = LoopConfig(mu=mu, depth_law=law, depths=depths)  # type: ignore[arg-type]
    loops = sample_loops(config, batch, torch.Generator().manual_seed(seed))
    assert loops.shape == (batch,) and loops.dtype == torch.int64
    assert int(loops.min()) >= 1 and int(loops.max()) <= 4 * mu
    assert bool((loops[:-1] >= loops[1:]).all())


@pytest.mark.parametrize(
    ("law", "variance"), [("poisson", 6.0), ("lognormal-poisson", 6 + 36 * (2.718281828**0.49 - 1))]
)
def test_depths_follow_their_law(law: str, variance: float) -> None:
    config = LoopConfig(mu=6, depth_law=law)  # type: ignore[arg-type]
    loops = sample_loops(config, 200_000, torch.Generator().manual_seed(0)).double()
    # Clamping to [1, 24] moves the moments a little, more so under the heavy tail.
    assert float(loops.mean()) == pytest.approx(6, rel=0.03)
    assert float(loops.var()) == pytest.approx(variance, rel=0.25 if law != "poisson" else 0.03)


def test_shared_depths_keep_the_law_and_take_fewer_calls() -> None:
    def draws(depths: int) -> torch.Tensor:
        config = LoopConfig(mu=7, depths=depths)
        return torch.stack([sample_loops(config, 128, torch.Generator().manual_seed(seed)) for seed in range(3000)])

    alone, shared = draws(0), draws(4)
    assert all(len(torch.unique(row)) <= 4 for row in shared[:50])
    assert bool((shared[:, :-1] >= shared[:, 1:]).all())
    # Equal parts of the batch, so that no draw counts more than another.
    assert [int((row == row[0]).sum()) % 32 for row in shared[:20]] == [0] * 20
    assert float(shared.double().mean()) == pytest.approx(7, rel=0.01)
    assert float(shared.double().var()) == pytest.approx(float(alone.double().var()), rel=0.05)
    assert float(shared[:, 0].double().mean()) < 0.75 * float(alone[:, 0].double().mean())


def test_the_same_generator_gives_the_same_depths() -> None:
    draws = [sample_loops(LoopConfig(), 64, torch.Generator().manual_seed(3)).tolist() for _ in range(2)]
    assert draws[0] == draws[1] and len(set(draws[0])) > 3

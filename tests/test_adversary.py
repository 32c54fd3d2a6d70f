"""The search for what breaks a certificate: it finds what is there, and exceeds nothing that is proved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from loopwm.certify.adversary import climb, drawn_pairs, largest_stretch, promise, settled, stretch
from loopwm.certify.config import AdversaryConfig
from loopwm.errors import LoopwmError, UserError
from loopwm.model.certified import CertifiedCore
from loopwm.model.config import CERTIFIED_LOOP, ModelConfig

TOKENS, WIDTH = 4, 16
ATTACK = AdversaryConfig(pairs=64, steps=80, inputs=16)


def make_core(lipschitz: float = 0.9, spread: float = 2.0) -> CertifiedCore:
    torch.manual_seed(0)
    config = ModelConfig(width=WIDTH, heads=2, loop=replace(CERTIFIED_LOOP, mu=4, lipschitz=lipschitz))
    core = CertifiedCore(config).double()
    with torch.no_grad():
        core.retention.a.copy_(torch.linspace(-spread, spread, WIDTH))
        for layer in core.layers:
            for weight in layer.parameters():
                weight.add_(torch.randn_like(weight))
    core.project()
    return core.requires_grad_(False)


def inputs(rows: int = 16) -> Tensor:
    return torch.randn(rows, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_search_comes_near_the_certified_rate_and_never_exceeds_it() -> None:
    core = make_core()
    found = largest_stretch(core, inputs(), ATTACK)
    assert (found.drawn_pairs, found.sought_pairs) == (32, 32)
    assert found.certified == core.contraction().rate
    assert found.drawn < found.sought <= found.certified * (1 + 1e-9)
    assert found.largest == found.sought


def test_a_certificate_that_claims_too_much_is_broken_by_the_search() -> None:
    core = make_core()
    true = core.contraction()
    # As if L had been forgotten: the rate of a loop whose update did not depend on its state.
    claimed = replace(true, lipschitz=0.0).rate
    assert largest_stretch(core, inputs(), ATTACK).largest > claimed


def test_ascent_never_ends_below_where_it_began() -> None:
    core, draws = make_core(), torch.Generator().manual_seed(2)
    pairs = drawn_pairs(inputs(), 20, draws)
    began = stretch(core, core.contraction(), *pairs)
    best = climb(core, core.contraction(), *pairs, ATTACK)
    assert bool((best >= began).all()) and float(best.max()) > float(began.max())


def test_a_settled_state_is_the_fixed_point() -> None:
    core, e = make_core(), inputs()
    end = settled(core, core.contraction(), e, torch.zeros_like(e))
    torch.testing.assert_close(core.update(end, e, core.held_input(e)), end, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_the_promise_is_kept_and_costs_more_loops_than_were_needed(share: float) -> None:
    core, e = make_core(), inputs()
    kept = promise(core, e, share, limit=2000)
    assert 0 < kept.worst <= 1
    assert kept.distance == pytest.approx(share * kept.start)
    assert 0 < kept.loops_needed <= kept.loops
    assert kept.rows == len(e)


def test_too_few_loops_for_a_promise_are_an_error() -> None:
    with pytest.raises(LoopwmError, match="more than 2 loops"):
        promise(make_core(), inputs(), 1e-4, limit=2)


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"pairs": 0}, "adversary.pairs"), ({"lr": 0.0}, "adversary.lr"), ({"promised": 1.0}, "adversary.promised")],
)
def test_a_meaningless_search_is_refused(bad: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        AdversaryConfig(**bad)

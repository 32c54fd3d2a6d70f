"""The certified exit: a row leaves only when it is as near to its fixed point as was promised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loopwm.data.statistics import Statistics
from loopwm.errors import UserError
from loopwm.model.certified import CertifiedCore
from loopwm.model.config import CERTIFIED_LOOP, ExitConfig, ModelConfig
from loopwm.model.exits import exit_for
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ActionSpec, ObservationSpec

LIMIT = 400


def make_model(certified: bool = True, **loop: object) -> WorldModel:
    torch.manual_seed(0)
    observation = ObservationSpec("entities", (4, 3), ("x", "v", "kind"))
    action = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
    changes = torch.tensor([True, True, False]).numpy()
    zeros, ones = torch.zeros(3).numpy(), torch.ones(3).numpy()
    statistics = Statistics(zeros, ones, changes, zeros[:2], ones[:2], 0.0, 1.0)
    config = ModelConfig(width=16, heads=2, loop=replace(CERTIFIED_LOOP, certified=certified, **loop))  # type: ignore[arg-type]
    model = WorldModel(config, observation, action, statistics).double().eval()
    with torch.no_grad():
        model.core.retention.a.copy_(torch.linspace(-1.5, 1.0, 16))  # type: ignore[union-attr]
    return model.requires_grad_(False)


def settled(core: CertifiedCore, e: Tensor) -> Tensor:
    """The fixed point, by looping until nothing moves any more in float64."""
    held, h = core.held_input(e), torch.zeros_like(e)
    for _ in range(3000):
        before, h = h, core.update(h, e, held)
        if (h - before).abs().max() < 1e-14:
            return h
    raise AssertionError("The loop did not settle.")


def distances(core: CertifiedCore, e: Tensor, start: Tensor, promised: float) -> tuple[Tensor, Tensor]:
    """|h - h*|_* of every row where the exit let it go, written out, and the loops it made."""
    rule = exit_for(ExitConfig("certified", promised), lambda h: h, core.contraction())
    h, loops = core.refine_until(start, e, torch.full((len(e),), LIMIT), rule)
    weight = (1 - core.retention.discretise()[0]).rsqrt()
    return (weight * (h - settled(core, e))).square().sum((1, 2)).sqrt(), loops


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), promised=st.floats(1e-6, 10), scale=st.floats(0.01, 20), warm=st.booleans())
def test_a_row_leaves_only_within_the_promised_distance_of_its_fixed_point(
    seed: int, promised: float, scale: float, warm: bool
) -> None:
    core = make_model(lipschitz=0.8).core
    assert isinstance(core, CertifiedCore)
    draws = torch.Generator().manual_seed(seed)
    e, start = scale * torch.randn(2, 8, 4, 16, generator=draws, dtype=torch.float64)
    found, loops = distances(core, e, start if warm else 0 * start, promised)
    assert loops.max() < LIMIT
    assert (found <= promised).all()


def test_inputs_found_to_break_the_promise_do_not() -> None:
    core, promised = make_model(lipschitz=0.95).core, 0.1
    assert isinstance(core, CertifiedCore)
    draws = torch.Generator().manual_seed(0)
    e = torch.randn(8, 4, 16, generator=draws, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([e], lr=0.05)
    d = core.contraction()
    for _ in range(60):
        # An adversary wants a small last step, and much of the way still to go.
        held, h = core.held_input(e), torch.zeros_like(e)
        path = []
        for _ in range(40):
            h = core.update(h, e, held)
            path.append(h)
        step, rest = d.distance(path[9] - path[8]), d.distance(path[-1] - path[9])
        optimiser.zero_grad()
        (step.log() - rest.log()).sum().backward()
        optimiser.step()
    found, loops = distances(core, e.detach(), torch.zeros_like(e), promised)
    assert loops.max() < LIMIT
    assert (found <= promised).all()


def test_the_promise_needs_its_factor() -> None:
    core = make_model(lipschitz=0.95).core
    assert isinstance(core, CertifiedCore)
    e = torch.randn(8, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d, held, h = core.contraction(), core.held_input(e), torch.zeros_like(e)
    end = settled(core, e)
    short = 0
    for _ in range(20):
        before, h = h, core.update(h, e, held)
        short += int((d.distance(h - end) > d.distance(h - before)).sum())
    assert short > 0


def test_a_smaller_promise_takes_more_loops_and_no_more_than_the_worst_case() -> None:
    core = make_model(lipschitz=0.8).core
    assert isinstance(core, CertifiedCore)
    e = torch.randn(8, 4, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, few = distances(core, e, torch.zeros_like(e), 1.0)
    _, many = distances(core, e, torch.zeros_like(e), 1e-6)
    assert (many > few).all()
    constants = core.contraction()
    held = core.held_input(e)
    opening = constants.distance(core.update(torch.zeros_like(e), e, held))
    # The step of loop t is at most rho^(t-1) times the opening one.
    share = float(1e-6 * (1 - constants.rate) / (constants.rate * opening.max()))
    assert int(many.max()) <= constants.loops_to(share) + 1


def test_the_verbs_take_the_rule_and_spend_different_loops_on_different_rows() -> None:
    model = make_model(lipschitz=0.8)
    draws = torch.Generator().manual_seed(3)
    observations = torch.randn(8, 4, 4, 3, generator=draws, dtype=torch.float64)
    actions = torch.randn(8, 4, 2, generator=draws, dtype=torch.float64)
    trace = Trace()
    model.observe(observations, actions, num_loops=LIMIT, exit=ExitConfig("certified", 0.5), trace=trace)
    assert trace.loops.max() < LIMIT
    assert len(trace.loops.unique()) > 1


def test_an_uncertified_model_refuses_the_rule() -> None:
    model = make_model(certified=False)
    h, action = model.initial(2), torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(UserError, match="needs a certified core"):
        model.step(h, action, exit=ExitConfig("certified", 0.1))


def test_weights_that_do_not_contract_refuse_the_rule() -> None:
    model = make_model()
    core = model.core
    assert isinstance(core, CertifiedCore)
    core.layers[0].out.weight.mul_(10)  # type: ignore[union-attr]
    h, action = model.initial(2), torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(UserError, match="promises nothing for these weights"):
        model.step(h, action, exit=ExitConfig("certified", 0.1))
    model.project()
    assert model.step(h, action, exit=ExitConfig("certified", 0.1)).isfinite().all()

"""Leaving the loop early: who leaves, when, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from loopwm.data.statistics import Statistics
from loopwm.errors import UserError
from loopwm.model.config import EXIT_RULES, ExitConfig, ExitRule, LoopConfig, ModelConfig
from loopwm.model.exits import Acceleration, OutputDelta, Residual, Signal
from loopwm.model.gate import Gate, GateConfig
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ActionSpec, ObservationSpec

MU = 6
# `certified` needs a core of its own; tests/test_certified_exit.py is about it.
EARLY: tuple[ExitRule, ...] = tuple(rule for rule in EXIT_RULES if rule not in ("fixed", "certified"))


def make_model(system: str = "looped", **loop: object) -> WorldModel:
    torch.manual_seed(0)
    observation = ObservationSpec("entities", (4, 3), ("x", "v", "kind"))
    action = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
    changes = torch.tensor([True, True, False]).numpy()
    zeros, ones = torch.zeros(3).numpy(), torch.ones(3).numpy()
    statistics = Statistics(zeros, ones, changes, zeros[:2], ones[:2], 0.0, 1.0)
    config = ModelConfig(system=system, width=16, heads=2, loop=LoopConfig(mu=MU, **loop))  # type: ignore[arg-type]
    model = WorldModel(config, observation, action, statistics)
    # An untrained gate says the same of every row; a drawn one tells them apart.
    model.gate = Gate(GateConfig(marks=4), 16)
    torch.nn.init.normal_(model.gate.out.weight)
    return model.eval()


def inputs(batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    # Sizes differ from row to row, so that rows settle at different loops.
    size = torch.logspace(-2, 1, batch)[torch.randperm(batch, generator=draws)]
    h = torch.randn(batch, 4, 16, generator=draws) * size[:, None, None]
    return h, torch.randn(batch, 2, generator=draws), torch.randn(batch, 4, 16, generator=draws) * size[:, None, None]


def loop_states(model: WorldModel, h: Tensor, action: Tensor, e: Tensor, loops: int) -> list[Tensor]:
    """h^(0) .. h^(loops), by running the loop afresh to every depth."""
    core = model.core
    injected = core.prelude(h, e, model.action_encoder(action))
    start = core.start(h, injected)  # type: ignore[operator]
    later = [core.refine(start, injected, torch.full((len(h),), t)) for t in range(1, loops + 1)]  # type: ignore[operator]
    return [start, *later]


def spread_threshold(model: WorldModel, rule: ExitRule, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    """A threshold at which some rows leave after loop 4 or before, and some later."""
    with torch.no_grad():
        signals = independent_signals(model, batch, loop_states(model, *batch, loops=4), rule)
    # Beside the signal of a row, not on it, where the last bit would decide.
    return 1.001 * float(torch.tensor(signals).min(0).values.median())


@pytest.mark.parametrize("rule", EARLY)
@pytest.mark.parametrize("form", ["zoh", "euler"])
def test_a_threshold_of_zero_is_bit_identical_to_the_fixed_number_of_loops(rule: ExitRule, form: str) -> None:
    model, batch = make_model(retention=form), inputs(9)
    loops = torch.tensor([3, 6, 1, 4, 6, 2, 6, 5, 1])
    with torch.no_grad():
        for limit in (None, 4, loops):
            fixed = model.step(*batch, num_loops=limit)
            assert torch.equal(model.step(*batch, num_loops=limit, exit=ExitConfig(rule, 0.0)), fixed)


@pytest.mark.parametrize("rule", EARLY)
def test_rows_leave_at_different_loops_and_each_equals_a_fixed_run_of_its_own_depth(rule: ExitRule) -> None:
    model, batch = make_model(), inputs(16)
    config = ExitConfig(rule, spread_threshold(model, rule, batch))
    trace = Trace()
    with torch.no_grad():
        early = model.step(*batch, exit=config, trace=trace)
        loops = trace.loops[:, 0]
        assert loops.min() < loops.max() <= MU
        torch.testing.assert_close(early, model.step(*batch, num_loops=loops))
        # Row by row, so that neither order nor company matters.
        for i, used in enumerate(loops.tolist()):
            alone = model.step(*(part[i : i + 1] for part in batch), num_loops=used)
            torch.testing.assert_close(early[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", EARLY)
def test_a_row_leaves_at_the_loop_where_its_signal_crosses_the_threshold(rule: ExitRule) -> None:
    model, batch = make_model(), inputs(16)
    threshold = spread_threshold(model, rule, batch)
    trace = Trace()
    with torch.no_grad():
        states = loop_states(model, *batch, loops=MU)
        signals = independent_signals(model, batch, states, rule)
        model.step(*batch, exit=ExitConfig(rule, threshold), trace=trace)
    for row, used in enumerate(trace.loops[:, 0].tolist()):
        below = [t + 1 for t in range(MU) if signals[t][row] < threshold]
        assert used == (below[0] if below else MU)


def independent_signals(
    model: WorldModel, batch: tuple[Tensor, Tensor, Tensor], path: list[Tensor], rule: ExitRule
) -> list[list[float]]:
    """The definitions, one row and one loop at a time; `path` is h^(0), h^(1), ... of `batch`."""
    decoded = [model.decode(model.core.finish(h)).observation[..., :2] for h in path]  # type: ignore[operator]
    table: list[list[float]] = []
    for t in range(1, len(path)):
        line = []
        for row in range(len(path[0])):
            now = path[t][row].norm()
            if rule == "gate":
                line.append(gate_signal(model, batch, path, t, row))
            elif rule == "residual":
                line.append(float((path[t][row] - path[t - 1][row]).norm() / now))
            elif rule == "output_delta":
                change = (decoded[t][row] - decoded[t - 1][row]).pow(2).mean().sqrt()
                line.append(float(change) if t > 1 else float("inf"))
            else:
                bends = [
                    float((path[s][row] - 2 * path[s - 1][row] + path[s - 2][row]).norm() / path[s][row].norm())
                    for s in (t - 1, t)
                    if s >= 2
                ]
                line.append(max(bends) if len(bends) == 2 else float("inf"))
        table.append(line)
    return table


def gate_signal(model: WorldModel, batch: tuple[Tensor, Tensor, Tensor], path: list[Tensor], t: int, row: int) -> float:
    """What the gate of `make_model` says of one row after loop t, written out token by token."""
    gate, (h, action, e) = model.gate, batch
    assert gate is not None
    read = model.core.prelude(h, e, model.action_encoder(action))[row]
    state, before = path[t][row], path[t - 1][row]
    tokens = []
    for n in range(4):
        scaled = [x[n] / (x[n].square().mean() + torch.finfo().eps).sqrt() for x in (read, state)]
        inner = gate.from_input.weight @ scaled[0] + gate.from_input.bias + gate.from_state.weight @ scaled[1]
        tokens.append(inner * inner.sigmoid())
    pooled = torch.stack(tokens)
    outputs = [model.decode(model.core.finish(path[s])).observation[row, :, :2] for s in (t - 1, t)]  # type: ignore[operator]
    moved = ((state - before).norm() / state.norm()).log(), (outputs[1] - outputs[0]).square().mean().sqrt().log()
    inner = (
        gate.from_pool(torch.cat([pooled.mean(0), pooled.max(0).values, torch.stack(moved)]))
        + gate.marks[min(t, 4) - 1]
    )
    return float((gate.out(inner * inner.sigmoid()) / 2).exp())


@pytest.mark.parametrize("rule", EARLY)
def test_a_row_that_left_stays_bit_identical_while_others_go_on(rule: ExitRule) -> None:
    model, batch = make_model(), inputs(16)
    config = ExitConfig(rule, spread_threshold(model, rule, batch))
    short, long = Trace(), Trace()
    with torch.no_grad():
        capped = model.step(*batch, num_loops=MU, exit=config, trace=short)
        deeper = model.step(*batch, num_loops=4 * MU, exit=config, trace=long)
    left = long.loops[:, 0] <= MU
    assert 0 < left.sum() < len(left) or left.all()
    assert torch.equal(short.loops[left], long.loops[left])
    # Neighbours change the blocking of a matrix product in the last bit, and nothing else may.
    torch.testing.assert_close(capped[left], deeper[left], rtol=1e-5, atol=1e-6)


def test_the_rows_that_run_are_the_rows_that_pay() -> None:
    model, batch = make_model(), inputs(16)
    config = ExitConfig("residual", spread_threshold(model, "residual", batch))
    sizes: list[int] = []
    block = model.core.block
    assert isinstance(block, nn.Module)
    block.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    trace = Trace()
    with torch.no_grad():
        model.step(*batch, exit=config, trace=trace)
    loops = trace.loops[:, 0]
    assert sizes == [int((loops > t).sum()) for t in range(int(loops.max()))]
    assert sum(sizes) < MU * 16


@pytest.mark.parametrize("exit", [None, ExitConfig("residual", 0.5), ExitConfig("output_delta", 0.5)])
def test_a_trace_without_residuals_counts_the_same_loops(exit: ExitConfig | None) -> None:
    model, batch = make_model(), inputs(5)
    watched, counted = Trace(), Trace(residuals=False)
    with torch.no_grad():
        states = [model.step(*batch, exit=exit, trace=trace) for trace in (watched, counted)]
    assert torch.equal(*states) and torch.equal(watched.loops, counted.loops)
    assert torch.equal(watched.norm, counted.norm)
    assert len(watched.residual) == watched.loops.max() and len(counted.residual) == 0


def test_residuals_in_the_trace_end_where_a_row_left() -> None:
    model, batch = make_model(), inputs(16)
    trace = Trace()
    with torch.no_grad():
        model.step(*batch, exit=ExitConfig("residual", spread_threshold(model, "residual", batch)), trace=trace)
    assert torch.equal((~trace.residual[..., 0].isnan()).sum(0), trace.loops[:, 0])


@given(st.integers(1, 12), st.floats(0, 2), st.integers(1, 8), st.sampled_from(EARLY), st.integers(1, 4))
@settings(max_examples=40)
def test_loops_stay_between_the_minimum_and_the_maximum(
    rows: int, threshold: float, limit: int, rule: ExitRule, least: int
) -> None:
    model, batch = make_model(), inputs(rows)
    trace = Trace()
    with torch.no_grad():
        model.step(*batch, num_loops=limit, exit=ExitConfig(rule, threshold, least), trace=trace)
    assert int(trace.loops.min()) >= min(least, limit) and int(trace.loops.max()) <= limit


def test_gradients_pass_through_the_loops_of_rows_that_left() -> None:
    model, (h, action, e) = make_model(), inputs(8)
    config = ExitConfig("residual", spread_threshold(model, "residual", (h, action, e)))
    wanted = action.clone().requires_grad_()
    trace = Trace()
    (by_exit,) = torch.autograd.grad(model.step(h, wanted, e, exit=config, trace=trace).pow(3).sum(), wanted)
    (by_depth,) = torch.autograd.grad(model.step(h, wanted, e, num_loops=trace.loops[:, 0]).pow(3).sum(), wanted)
    torch.testing.assert_close(by_exit, by_depth, rtol=1e-4, atol=1e-5)


def test_imagine_and_observe_take_an_exit_rule_at_every_step() -> None:
    model, (_, _, _) = make_model(), inputs(1)
    draws = torch.Generator().manual_seed(3)
    observations, actions = torch.randn(8, 5, 4, 3, generator=draws), torch.randn(8, 5, 2, generator=draws)
    for config in (ExitConfig("residual", 0.5), ExitConfig("output_delta", 0.5)):
        seen, blind = Trace(), Trace()
        with torch.no_grad():
            model.observe(observations, actions, exit=config, trace=seen)
            latents = model.imagine(actions, observation=observations[:, 0], exit=config, trace=blind)
        assert seen.loops.shape == blind.loops.shape == (8, 5) and latents.isfinite().all()
        assert float(seen.loops.float().mean()) < MU


@pytest.mark.parametrize("kind", [Residual, Acceleration, lambda start: OutputDelta(lambda h: h)])
def test_a_signal_forgets_the_rows_that_left(kind: type[Residual]) -> None:
    path = torch.randn(5, 6, 4, 8, generator=torch.Generator().manual_seed(0))
    staying = torch.tensor([4, 0, 3])
    everyone: Signal = kind(torch.zeros(6, 4, 8))
    fewer: Signal = kind(torch.zeros(6, 4, 8))
    for h in path[:3]:
        everyone.look(h)
        fewer.look(h)
    fewer.keep(staying)
    for h in path[3:]:
        assert torch.equal(everyone.look(h)[staying], fewer.look(h[staying]))


@pytest.mark.parametrize(
    ("rule", "threshold", "least", "words"),
    [
        ("residul", 0.1, 1, "exit.rule must be one of"),
        ("residual", -0.1, 1, "must not be negative"),
        ("residual", float("nan"), 1, "must not be negative"),
        ("fixed", 0.1, 1, "means nothing to the rule 'fixed'"),
        ("residual", 0.1, 0, "at least 1"),
    ],
)
def test_meaningless_exit_settings_are_refused(rule: str, threshold: float, least: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ExitConfig(rule, threshold, least)  # type: ignore[arg-type]


def test_a_model_without_a_gate_refuses_the_rule_gate_and_says_how_to_get_one() -> None:
    model, batch = make_model(), inputs(2)
    model.gate = None
    with pytest.raises(UserError, match="this model has none; train one with: loopwm train-gate RUN"):
        model.step(*batch, exit=ExitConfig("gate", 0.1))


def test_a_gate_is_named_apart_from_the_model_it_belongs_to() -> None:
    model = make_model()
    bare = make_model()
    bare.gate = None
    assert model.num_parameters() == bare.num_parameters() and model.flops() == bare.flops()
    assert repr(model).splitlines()[:-1] == repr(bare).splitlines()
    assert repr(model).splitlines()[-1].split()[:2] == ["gate", f"{sum(p.numel() for p in model.gate.parameters()):,}"]  # type: ignore[union-attr]


def test_a_stack_refuses_an_exit_rule() -> None:
    model, batch = make_model("stack-equal-params"), inputs(2)
    with pytest.raises(UserError, match="no loop to leave early"):
        model.step(*batch, exit=ExitConfig("residual", 0.1))

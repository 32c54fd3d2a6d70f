"""The loop: what it computes, for whom, and through which loops gradients pass."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from loopwm.errors import UserError
from loopwm.model.config import LoopConfig, ModelConfig
from loopwm.model.core import LoopedCore, running_rows
from loopwm.model.trace import Trace

WIDTH, TOKENS = 16, 5


def make_core(dtype: torch.dtype = torch.float32, **loop: object) -> LoopedCore:
    torch.manual_seed(0)
    config = ModelConfig(width=WIDTH, heads=2, coda=1, loop=LoopConfig(mu=4, **loop))  # type: ignore[arg-type]
    core = LoopedCore(config).to(dtype)
    # At initialisation a = 0 and B = 1, which would hide a formula that leaves them out.
    with torch.no_grad():
        core.retention.a.add_(torch.linspace(-0.5, 0.5, WIDTH))
        core.B.weight.add_(0.1 * torch.randn(WIDTH, WIDTH))
        if isinstance(core.norm_h, nn.RMSNorm):
            core.norm_h.weight.add_(0.1 * torch.randn(WIDTH))
        core.phases.marks.add_(0.1 * torch.randn(core.phases.marks.shape))
    return core


def inputs(batch: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, e = torch.randn(2, batch, TOKENS, WIDTH, generator=generator, dtype=dtype)
    return h, e, torch.randn(batch, 1, WIDTH, generator=generator, dtype=dtype)


# ---- an independent reference, written out from the equations, one row and one head at a time ----


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * weight


def reference_layer(x: Tensor, p: dict[str, Tensor], heads: int, marks: Tensor | None = None) -> Tensor:
    gain_attention, gain_mlp, shift = torch.zeros(3, x.shape[-1], dtype=x.dtype) if marks is None else marks[:, 0]
    normed = rms(x, p["norm_attention.weight"]) * (1 + gain_attention)
    width = x.shape[-1] // heads
    mixed = []
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        q, k, v = (normed @ p["attention.qkv.weight"][part * x.shape[-1] :][rows].T for part in range(3))
        q = q / q.norm(dim=-1, keepdim=True) * p["attention.gain"][head, 0, 0]
        k = k / k.norm(dim=-1, keepdim=True)
        scores = (q @ k.T).exp()
        mixed.append(scores / scores.sum(-1, keepdim=True) @ v)
    x = x + torch.cat(mixed, -1) @ p["attention.out.weight"].T
    hidden = (rms(x, p["norm_mlp.weight"]) * (1 + gain_mlp) + shift) @ p["mlp_in.weight"].T
    return x + (hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))) @ p["mlp_out.weight"].T


def part(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v.detach() for k, v in module.state_dict().items() if k.startswith(prefix)}


def reference_core(core: LoopedCore, h_prev: Tensor, e_k: Tensor, u: Tensor, loops: int, form: str) -> Tensor:
    p = part(core, "")
    x = h_prev @ p["prelude.from_latent.weight"].T + e_k + u
    e = reference_layer(x, part(core, "prelude.layers.blocks.0."), 2)
    if core.loop.normalise_input:
        e = rms(e, p["prelude.norm.weight"])
    block = part(core, "block.blocks.0.")
    delta = (1 + p["retention.raw_delta"].exp()).log()
    abar = (-delta * p["retention.a"].exp()).exp()
    h = {"input": e, "zero": torch.zeros_like(e), "previous": h_prev}[core.loop.start]
    exponent = core.loop.settle if core.training else core.loop.settle_eval
    for loop in range(loops):
        before = h
        marks = p["phases.marks"][min(loop, core.loop.phases - 1), 0] if core.loop.phases else None
        if form == "zoh":
            w = rms(h, p["norm_h.weight"]) + e
            branch = reference_layer(w, block, 2, marks) - w
            h = abar * h + (1 - abar) * (-p["retention.a"]).exp() * (e @ p["B.weight"].T + branch)
        else:
            h = reference_layer(abar * h + delta * (e @ p["B.weight"].T), block, 2, marks)
        h = before + min(1.0, core.loop.mu / (loop + 1)) ** exponent * (h - before)
    return rms(reference_layer(h, part(core, "coda.blocks.0."), 2), p["norm_out.weight"])


@pytest.mark.parametrize("form", ["zoh", "euler"])
@pytest.mark.parametrize(("loops", "training"), [(1, True), (2, True), (7, True), (7, False)])
@pytest.mark.parametrize("start", ["input", "zero", "previous"])
@pytest.mark.parametrize(("phases", "normalise"), [(0, True), (3, False)])
def test_the_loop_equals_a_hand_written_unrolled_reference_in_float64(
    form: str, loops: int, training: bool, start: str, phases: int, normalise: bool
) -> None:
    core = make_core(torch.float64, retention=form, start=start, phases=phases, normalise_input=normalise)
    core.train(training)
    h, e, u = inputs(3, torch.float64)
    with torch.no_grad():
        got = core(h, e, u, loops)
    for row in range(3):
        wanted = reference_core(core, h[row], e[row], u[row], loops, form)
        torch.testing.assert_close(got[row], wanted, rtol=1e-10, atol=1e-10)


# ---- per-row depth ----


@settings(max_examples=40, deadline=None)
@given(loops=st.lists(st.integers(1, 9), min_size=1, max_size=12), start=st.sampled_from(["input", "zero", "previous"]))
def test_a_batch_of_mixed_depths_equals_its_rows_one_by_one(loops: list[int], start: str) -> None:
    core = make_core(torch.float64, start=start)
    h, e, u = inputs(len(loops), torch.float64)
    with torch.no_grad():
        together = core(h, e, u, torch.tensor(loops))
        alone = [core(h[i : i + 1], e[i : i + 1], u[i : i + 1], depth) for i, depth in enumerate(loops)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-10)


def masked_refine(core: LoopedCore, e: Tensor, loops: Tensor) -> Tensor:
    """The wasteful way: every row runs to the largest depth, finished rows are held by a mask."""
    h, held = torch.zeros_like(e), core.held_input(e)
    for t in range(int(loops.max())):
        h = torch.where((t < loops)[:, None, None], core.moved(h, e, held, torch.tensor([t])), h)
    return h


def test_compaction_equals_masking_in_value_and_in_gradient() -> None:
    core = make_core(gradient="all")
    _, e, _ = inputs(9)
    loops = torch.tensor([3, 1, 8, 2, 8, 5, 1, 4, 3])
    gradients = []
    for refine in (lambda x: core.refine(torch.zeros_like(x), x, loops), lambda x: masked_refine(core, x, loops)):
        core.zero_grad()
        x = e.clone().requires_grad_()
        out = refine(x)
        out.square().sum().backward()
        gradients.append([out, x.grad, core.B.weight.grad, core.retention.a.grad, core.retention.raw_delta.grad])
    for compacted, masked in zip(*gradients, strict=True):
        torch.testing.assert_close(compacted, masked, rtol=2e-4, atol=2e-5)


def test_finished_rows_really_leave_the_computation() -> None:
    core = make_core().eval()
    rows: list[int] = []
    core.block.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    h, e, u = inputs(4)
    core(h, e, u, torch.tensor([2, 5, 1, 2]))
    assert rows == [4, 3, 1, 1, 1]


@given(loops=st.lists(st.integers(1, 30), min_size=1, max_size=50))
def test_running_rows_counts_every_loop_of_every_row(loops: list[int]) -> None:
    ordered = torch.tensor(sorted(loops, reverse=True))
    running = running_rows(ordered)
    assert sum(running) == sum(loops)
    assert all(count == sum(depth > t for depth in loops) for t, count in enumerate(running))


def test_trace_reports_loops_and_leaves_finished_rows_blank_in_caller_order() -> None:
    core, trace = make_core(), Trace()
    h, e, u = inputs(3)
    with torch.no_grad():
        out = core(h, e, u, torch.tensor([2, 4, 1]), trace)
        deeper, shallower = core(h, e, u, 4), Trace()
        core(h[1:2], e[1:2], u[1:2], 4, shallower)
    assert trace.loops.tolist() == [[2], [4], [1]]
    residual = trace.residual[..., 0]
    assert residual.isnan().tolist() == [[t >= n for n in (2, 4, 1)] for t in range(4)]
    torch.testing.assert_close(residual[:, 1], shallower.residual[:, 0, 0])
    torch.testing.assert_close(out[1], deeper[1])
    torch.testing.assert_close(trace.norm[:, 0], out.pow(2).mean((1, 2)).sqrt())


def test_trace_counts_loops_in_order_while_training_too() -> None:
    core = make_core(gradient="last")
    h, e, u = inputs(4)
    loops = torch.tensor([9, 2, 5, 4])
    traces = Trace(), Trace()
    core(h, e, u, loops, traces[0])
    with torch.no_grad():
        core(h, e, u, loops, traces[1])
    torch.testing.assert_close(traces[0].residual, traces[1].residual, equal_nan=True)


# ---- gradients ----


def test_gradients_are_whole_in_evaluation_mode() -> None:
    core = make_core(gradient="last").eval()
    seen: list[bool] = []
    core.block.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
    core(*inputs(2), 9)
    assert seen == [True] * 9


def test_no_gradient_reaches_loops_before_the_window() -> None:
    core = make_core(gradient="last")
    window = core.loop.gradient_loops
    h, e, u = inputs(2)
    seen: list[bool] = []
    core.block.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
    core(h, e, u, window + 3)
    assert window == 4
    assert seen == [False] * 3 + [True] * window


def test_every_row_gets_its_own_gradient_window() -> None:
    core = make_core(gradient="last", start="previous")
    h, e, u = inputs(3)
    h.requires_grad_()
    # With a warm start the state enters the loop directly, and through the prelude; cut the second path.
    core.prelude.from_latent.weight.data.zero_()
    window = core.loop.gradient_loops
    core(h, e, u, torch.tensor([window, window + 1, 1])).pow(3).sum().backward()
    reached = h.grad.abs().sum((1, 2)) > 0  # type: ignore[union-attr]
    assert reached.tolist() == [True, False, True]


def test_beyond_mu_the_latent_moves_less_and_less_and_never_far() -> None:
    core = make_core(torch.float64, settle=3.0, abar=0.99)
    h, e, u = inputs(4, torch.float64)
    trace, whole = Trace(), Trace()
    with torch.no_grad():
        core(h, e, u, 400, trace)
        make_core(torch.float64, settle=0.0, abar=0.99)(h, e, u, 400, whole)
    moved, unchecked = trace.residual[..., 0].sum(1), whole.residual[..., 0].sum(1)
    assert torch.equal(moved[:4], unchecked[:4])
    # sum over t > mu of (mu / t)^3 is below mu / 2.
    assert float(moved[4:].sum()) < 2 * float(moved[3])


def test_truncating_the_gradient_changes_no_value() -> None:
    h, e, u = inputs(6, torch.float64)
    loops = torch.tensor([9, 2, 6, 1, 12, 4])
    last, every = make_core(torch.float64, gradient="last"), make_core(torch.float64, gradient="all")
    torch.testing.assert_close(last(h, e, u, loops), every(h, e, u, loops), rtol=1e-12, atol=1e-12)


def gradients_at(core: LoopedCore, loops: Tensor) -> list[Tensor]:
    core.zero_grad()
    h, e, u = inputs(len(loops), torch.float64)
    core(h, e, u, loops).pow(3).sum().backward()
    return [p.grad.clone() for p in core.parameters() if p.grad is not None]


def test_truncated_gradient_equals_the_full_one_when_the_window_covers_every_loop() -> None:
    loops = torch.tensor([1, 4, 2, 3])
    truncated = gradients_at(make_core(torch.float64, gradient="last"), loops)
    full = gradients_at(make_core(torch.float64, gradient="all"), loops)
    for a, b in zip(truncated, full, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_truncated_gradient_differs_from_the_full_one_beyond_the_window() -> None:
    loops = torch.tensor([9, 9])
    truncated = gradients_at(make_core(torch.float64, gradient="last"), loops)
    full = gradients_at(make_core(torch.float64, gradient="all"), loops)
    assert max(float((a - b).abs().max()) for a, b in zip(truncated, full, strict=True)) > 1e-3


# ---- structure ----


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(TOKENS)))
def test_the_core_is_permutation_equivariant_in_its_tokens(order: list[int]) -> None:
    core = make_core(torch.float64)
    h, e, u = inputs(2, torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(core(h[:, order], e[:, order], u, 5), core(h, e, u, 5)[:, order])


def test_the_carried_latent_is_normalised_whatever_comes_in() -> None:
    core = make_core()
    h, e, u = inputs(2)
    with torch.no_grad():
        out = core(1e4 * h, 1e4 * e, 1e4 * u, 12)
    torch.testing.assert_close(out.pow(2).mean(-1), torch.ones(2, TOKENS), rtol=1e-3, atol=1e-3)


def test_only_a_warm_start_lets_the_previous_latent_into_the_loop_directly() -> None:
    h, e, u = inputs(2)
    for start in ("input", "zero", "previous"):
        core = make_core(start=start)
        core.prelude.from_latent.weight.data.zero_()
        with torch.no_grad():
            changed = (core(h, e, u, 1) - core(h + 1, e, u, 1)).abs().max()
        assert (changed > 1e-3) == (start == "previous")


@pytest.mark.parametrize("bad", [0, 2.9, torch.tensor([1, 0]), torch.tensor([1, 2, 3])])
def test_impossible_numbers_of_loops_are_refused(bad: int | Tensor) -> None:
    with pytest.raises(UserError, match=r"num_loops .*must"):
        make_core()(*inputs(2), bad)

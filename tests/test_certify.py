"""What `loopwm certify` claims: bounds that no input breaks, and a file that speaks about one set of weights only."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from loopwm.certify.bounds import Reach, attention_reach, boundedness, mlp_reach, update_parts
from loopwm.certify.certificate import FILE, certify, check, claims_of
from loopwm.certify.config import MeasureConfig
from loopwm.certify.words import summary
from loopwm.data.statistics import Statistics
from loopwm.errors import UserError
from loopwm.model.block import Block
from loopwm.model.certified import CertifiedCore
from loopwm.model.config import CERTIFIED_LOOP, LoopConfig, ModelConfig
from loopwm.model.core import LoopedCore
from loopwm.model.encoders import ActionEncoder, EntityEncoder
from loopwm.model.world_model import WorldModel
from loopwm.presets import PRESETS, RunConfig
from loopwm.spaces import ActionSpec, ObservationSpec
from loopwm.train.checkpoint import NAME, read_checkpoint, weights_digest
from loopwm.train.published import folders
from loopwm.train.runs import train

CORES: dict[str, dict] = {
    "zoh": {"retention": "zoh", "abar": 0.607, "normalise_input": True, "start": "zero"},
    "zoh, warm": {"retention": "zoh", "abar": 0.607, "normalise_input": True, "start": "previous"},
    "euler": {"retention": "euler", "abar": 0.607, "normalise_input": True, "start": "input"},
    "euler, warm": {"retention": "euler", "abar": 0.607, "normalise_input": True, "start": "previous"},
    "open": {},
    "certified": asdict(CERTIFIED_LOOP),
}
NORMALISED = [kind for kind in CORES if kind != "open"]
"""Cores whose loop input is normalised, and bounded therefore whatever is observed."""


def make_model(kind: str = "zoh", shared: int = 1, coda: int = 1, **size: object) -> WorldModel:
    """In float64, with gains and retention away from the initialisation, where a formula without them would pass."""
    torch.manual_seed(0)
    observation = ObservationSpec("entities", (4, 3), ("x", "v", "kind"))
    action = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    statistics = Statistics(zeros, ones, ones.astype(bool), zeros[:2], ones[:2], 0.0, 1.0)
    loop = LoopConfig(**CORES.get(kind, {}))
    sizes = {"width": 16, "heads": 2, **size}
    config = ModelConfig(shared=shared, coda=coda, loop=loop, **sizes)  # type: ignore[arg-type]
    model = WorldModel(config, observation, action, statistics).double().eval()
    core = model.core
    assert isinstance(core, LoopedCore)
    with torch.no_grad():
        core.retention.a.copy_(torch.linspace(-1, 1, 16))
        for name, weight in core.named_parameters():
            if "norm" in name:
                weight.mul_(0.5 + torch.rand_like(weight))
            if "marks" in name:
                weight.normal_(std=0.3)
    return model.requires_grad_(False)


def bound_of(norm: torch.nn.Module) -> Tensor:
    """Largest magnitude of each channel that leaves a norm."""
    assert isinstance(norm, torch.nn.RMSNorm)
    return math.sqrt(len(norm.weight)) * norm.weight.abs()


def ascend(objective: Callable[[Tensor], Tensor], start: Tensor, steps: int = 80) -> None:
    """Change `start` in place so that the objective grows."""
    start.requires_grad_(True)
    optimiser = torch.optim.Adam([start], lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        (-objective(start)).backward()
        optimiser.step()
    start.requires_grad_(False)


def normalised(core: LoopedCore, x: Tensor) -> Tensor:
    """Any e that the prelude could produce."""
    return core.prelude.norm(x)


# ---- claim B ----


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("kind", NORMALISED)
def test_no_input_found_by_gradient_ascent_leaves_the_bound_of_the_loop_state(kind: str, shared: int) -> None:
    model = make_model(kind, shared)
    core, bounds = model.core, boundedness(model)
    assert isinstance(core, LoopedCore) and bounds.state is not None and bounds.channel is not None
    carried = normalised_state(core, torch.randn(8, 4, 16, dtype=torch.float64))

    def state(x: Tensor, loops: int = 8) -> Tensor:
        e = normalised(core, x)
        return core.refine(core.start(carried, e), e, torch.full((8,), loops))

    x = torch.randn(8, 4, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ascend(lambda x: state(x).norm(dim=-1).mean(), x)
    for loops in (1, 8, 100):
        assert state(x, loops).norm(dim=-1).max() <= bounds.state
        assert state(x, loops).abs().max() <= bounds.channel
    # Not so loose that it says nothing.
    assert state(x).norm(dim=-1).max() > bounds.state / 30


@pytest.mark.parametrize("loops", [1, 7, 30])
def test_an_open_loop_stays_in_its_bound_for_the_observations_that_the_bound_assumes(loops: int) -> None:
    model = make_model("open")
    core, bounds = model.core, boundedness(model, observed=3.0)
    assert isinstance(core, LoopedCore) and bounds.state is not None and bounds.channel is not None
    assert bounds.observed == 3.0
    action = torch.ones(8, 2, dtype=torch.float64)
    carried = normalised_state(core, torch.randn(8, 4, 16, dtype=torch.float64))

    def state(raw: Tensor) -> Tensor:
        e = core.prelude(carried, model.encode(3.0 * raw.tanh()), model.action_encoder(action))
        return core.refine(core.start(carried, e), e, torch.full((8,), loops))

    raw = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ascend(lambda raw: state(raw).norm(dim=-1).mean(), raw)
    assert state(raw).norm(dim=-1).max() <= bounds.state
    assert state(raw).abs().max() <= bounds.channel
    # What is seen beyond the assumption may leave it, so the assumption is no decoration.
    e = core.prelude(carried, model.encode(1e6 * raw.tanh()), model.action_encoder(action))
    assert core.refine(core.start(carried, e), e, torch.full((8,), loops)).norm(dim=-1).max() > bounds.state


def test_a_start_that_no_norm_bounds_counts_with_its_own_length() -> None:
    """Every channel of e can be as large as the largest: a bound on one is none on all of them together."""
    model = make_model("open")
    core = model.core
    assert isinstance(core, LoopedCore) and core.loop.start == "input" and core.loop.retention == "euler"
    encoder = model.encoder
    assert isinstance(encoder, EntityEncoder) and isinstance(model.action_encoder, ActionEncoder)
    with torch.no_grad():
        core.retention.a.fill_(3.0)
        core.B.weight.zero_()
        for block in [*core.block.blocks, *core.prelude.layers.blocks]:
            assert isinstance(block, Block)
            block.attention.out.weight.zero_()
            block.mlp_out.weight.zero_()
        core.prelude.from_latent.weight.zero_()
        encoder.embed.weight.copy_(torch.ones_like(encoder.embed.weight))
        encoder.embed.bias.zero_()
        model.action_encoder.embed.weight.zero_()
    bounds = boundedness(model, observed=3.0)
    carried = normalised_state(core, torch.randn(1, 4, 16, dtype=torch.float64))
    e = core.prelude(carried, model.encode(3.0 * torch.ones(1, 4, 3, dtype=torch.float64)), torch.zeros_like(carried))
    found = float(core.start(carried, e).norm(dim=-1).max())
    assert bounds.state is not None and bounds.channel is not None
    assert bounds.channel < found <= bounds.state


def normalised_state(core: LoopedCore, h: Tensor) -> Tensor:
    """A carried latent, as the coda leaves it."""
    return core.norm_out(h)


def test_no_state_leaves_the_bound_of_a_branch() -> None:
    model = make_model(shared=2)
    core = model.core
    assert isinstance(core, LoopedCore)
    block, scale = core.block.blocks[0], torch.linspace(0.5, 2, 16, dtype=torch.float64)
    assert isinstance(block, Block)
    branches: list[tuple[Reach, Callable[[Tensor], Tensor]]] = [
        (attention_reach(block, scale), lambda x: scale * block.attention(block.norm_attention(x))),
        (
            mlp_reach(block, scale),
            lambda x: scale * (block.mlp_out(torch.nn.functional.gelu(block.mlp_in(block.norm_mlp(x))))),
        ),
    ]
    for reach, branch in branches:
        x = torch.randn(32, 4, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        ascend(lambda x, branch=branch: branch(x).norm(dim=-1).mean(), x)
        assert branch(x).norm(dim=-1).max() <= reach.norm
        assert (branch(x).abs() <= reach.channel).all()
        assert branch(x).norm(dim=-1).max() > reach.norm / 5


def test_heads_that_look_at_different_tokens_exceed_the_single_head_formula() -> None:
    """|Wo| |Wv| sqrt(D) bounds one head. Two heads can each pick the token that suits them, and it breaks."""
    torch.manual_seed(0)
    block = Block(4, 2, 4).double().requires_grad_(False)
    attention = block.attention
    # Head 0 reads channel 0 as its value and looks for it, head 1 does so with channel 2.
    look, value = torch.zeros(2, 4, 4, dtype=torch.float64)
    look[0, 0] = look[2, 2] = 1.0
    value[0, 0] = value[2, 2] = 1.0
    attention.qkv.weight.copy_(torch.cat([torch.ones(4, 4), look, value]))
    attention.out.weight.copy_(torch.eye(4))
    attention.gain.fill_(50.0)
    x = torch.zeros(1, 2, 4, dtype=torch.float64)
    x[0, 0] = torch.tensor([2.0, 0.0, -1e-3, 0.0])
    x[0, 1] = torch.tensor([-1e-3, 0.0, 2.0, 0.0])
    found = attention(block.norm_attention(x)).norm(dim=-1).max()
    naive = math.sqrt(4) * torch.linalg.matrix_norm(value, 2) * torch.linalg.matrix_norm(attention.out.weight, 2)
    assert found > 1.3 * naive
    assert found <= attention_reach(block, torch.ones(4, dtype=torch.float64)).norm


@pytest.mark.parametrize("coda", [0, 1])
@pytest.mark.parametrize("kind", CORES)
def test_the_carried_latent_stays_in_its_bound_over_any_horizon_and_whatever_is_seen(kind: str, coda: int) -> None:
    model = make_model(kind, coda=coda)
    bound = boundedness(model).carried
    core = model.core
    assert isinstance(core, LoopedCore)
    assert bound == pytest.approx(4 * float(core.norm_out.weight.abs().max()))
    actions = 1e3 * torch.randn(8, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observation = 1e3 * torch.randn(8, 4, 3, dtype=torch.float64)
    latents = model.imagine(actions, observation=observation, num_loops=3)
    assert latents.norm(dim=-1).max() <= bound
    assert latents.norm(dim=-1).max() > bound / 3


def test_a_stack_is_bounded_by_its_last_norm_and_has_no_loop_state() -> None:
    config = ModelConfig(width=16, heads=2, system="stack-equal-params")
    model = make_model()
    stack = WorldModel(config, model.observation, model.action, neutral(model)).double()
    with torch.no_grad():
        assert isinstance(stack.core.prelude.norm, torch.nn.RMSNorm)
        stack.core.prelude.norm.weight.copy_(torch.linspace(-3, 1, 16))
    assert boundedness(stack).carried == pytest.approx(4 * 3)
    assert boundedness(stack).state is None


def neutral(model: WorldModel) -> Statistics:
    features, actions = model.observation.num_features, model.action.stored_size
    one, zero = np.ones(features, np.float32), np.zeros(features, np.float32)
    return Statistics(zero, one, one.astype(bool), zero[:actions], one[:actions], 0.0, 1.0)


def test_the_bound_grows_with_the_weights_it_is_made_of() -> None:
    model = make_model()
    before = boundedness(model)
    core = model.core
    assert isinstance(core, LoopedCore) and before.branches is not None and before.state is not None
    block = core.block.blocks[0]
    assert isinstance(block, Block)
    block.mlp_out.weight.mul_(10)
    after = boundedness(model)
    assert after.branches is not None and after.state is not None
    assert after.branches["block 0, MLP"] == pytest.approx(10 * before.branches["block 0, MLP"])
    assert after.branches["block 0, attention"] == pytest.approx(before.branches["block 0, attention"])
    assert after.state > before.state


def test_the_parts_of_the_certified_update_stay_in_their_reach() -> None:
    core = make_model("certified", shared=2).core
    assert isinstance(core, CertifiedCore)
    channel = bound_of(core.prelude.norm)
    held, branches = update_parts(core, Reach(channel, float(channel.max())))
    x = torch.randn(16, 4, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    h = 50 * torch.randn(16, 4, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    abar = core.retention.discretise()[0]

    def contraction(x: Tensor) -> Tensor:
        parts = core.held_input(normalised(core, x))
        return (core.update(h, x, parts) - abar * h) / (1 - abar) - parts[0]

    ascend(lambda x: contraction(x).norm(dim=-1).mean(), x)
    assert contraction(x).norm(dim=-1).max() <= branches["contraction"].norm
    assert (contraction(x).abs() <= branches["contraction"].channel).all()
    assert (core.B(normalised(core, x)).abs() <= held.channel + 1e-12).all()


# ---- certificates ----


def debug_run(store: Path, **loop: object) -> RunConfig:
    config = PRESETS["debug"].config
    model = replace(config.model, loop=replace(config.model.loop, **loop))  # type: ignore[arg-type]
    return replace(config, data=store, model=model, train=replace(config.train, updates=6))


@pytest.fixture(scope="module")
def certified_run(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "certified"
    train(debug_run(billiards_store, **asdict(replace(CERTIFIED_LOOP, mu=2))), run)
    return run


@pytest.fixture(scope="module")
def ordinary_run(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "ordinary"
    train(debug_run(billiards_store), run)
    return run


def altered(run: Path, out: Path, name: str, change: Callable[[Tensor], Tensor]) -> Path:
    """A copy of a run in which one tensor of the averaged weights is another."""
    out.mkdir()
    tensors = load_file(run / NAME)
    tensors[f"ema.{name}"] = change(tensors[f"ema.{name}"])
    with safe_open(run / NAME, framework="pt") as stream:
        header = stream.metadata()
    save_file(tensors, out / NAME, metadata=header)
    (out / "config.yaml").write_text((run / "config.yaml").read_text())
    return out


def test_a_certificate_is_written_and_holds_for_its_run(certified_run: Path) -> None:
    claims = certify(certified_run)
    assert check(certified_run, certified_run / FILE) == claims
    assert claims.contraction is not None and claims.measured is None
    assert 0 < claims.contraction.rate < 1
    assert claims.contraction.lipschitz <= 0.9 * (1 + 1e-5)
    assert claims.contraction.rate == pytest.approx(
        1 - claims.contraction.d_min * (1 - claims.contraction.lipschitz), rel=1e-12
    )


def test_an_uncertified_run_gets_bounds_and_a_measured_rate(ordinary_run: Path) -> None:
    claims = certify(ordinary_run, config=MeasureConfig(states=20))
    assert claims.contraction is None and claims.boundedness.state is not None
    assert claims.measured is not None and claims.measured.n == 20
    assert 0 < claims.measured.median <= claims.measured.worst
    assert check(ordinary_run, ordinary_run / FILE) == claims


def test_what_follows_from_weights_needs_no_recording(ordinary_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(ordinary_run, tmp_path / "moved"))
    settings = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"^data: .*$", f"data: {tmp_path / 'gone.h5'}", settings, flags=re.M))
    claims = certify(run)
    assert claims.measured is None and "gone.h5" in claims.unmeasured and claims.boundedness.state is not None
    assert f"nor measured: {claims.unmeasured}" in summary(claims)
    assert check(run, run / FILE) == claims
    with pytest.raises(UserError, match=r"other\.h5"):
        certify(run, tmp_path / "other.h5")


def test_small_published_weights_have_a_digest() -> None:
    checkpoint = read_checkpoint(folders()["alfworld-small"] / NAME)
    whole = checkpoint.part("ema")
    assert any(tensor.dtype == torch.bfloat16 for tensor in whole.values())
    digest = weights_digest(checkpoint.blueprint, whole)
    name = next(name for name, tensor in whole.items() if tensor.dtype == torch.bfloat16)
    assert weights_digest(checkpoint.blueprint, whole | {name: whole[name] + 1}) != digest


@pytest.mark.parametrize("part", ["into", "out"])
def test_a_layer_scaled_by_ten_fails_certification(certified_run: Path, tmp_path: Path, part: str) -> None:
    bad = altered(certified_run, tmp_path / "bad", f"core.layers.0.{part}.weight", lambda weight: 10 * weight)
    with pytest.raises(UserError, match=r"fails certification: the Lipschitz constant .* is (8\.9|9)"):
        certify(bad)
    assert not (bad / FILE).exists()


def test_what_reads_e_alone_may_be_scaled_without_breaking_the_contraction(certified_run: Path, tmp_path: Path) -> None:
    free = altered(certified_run, tmp_path / "free", "core.routings.0.qk.weight", lambda weight: 10 * weight)
    before, after = claims_of(certified_run), claims_of(free)
    assert after.contraction == before.contraction
    assert after.sha256 != before.sha256


@pytest.mark.parametrize("name", ["core.B.weight", "encoder.embed.weight", "observation_mean"])
def test_one_changed_bit_anywhere_in_the_weights_voids_the_certificate(
    certified_run: Path, tmp_path: Path, name: str
) -> None:
    certify(certified_run)

    def flip(weight: Tensor) -> Tensor:
        changed = weight.clone()
        changed.view(-1)[0] = torch.nextafter(changed.view(-1)[0], torch.tensor(torch.inf))
        return changed

    other = altered(certified_run, tmp_path / "other", name, flip)
    with pytest.raises(UserError, match="was made for other weights"):
        check(other, certified_run / FILE)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (("contraction", "rate"), r"claims another contraction than the weights give \(rate: 0.5 instead of"),
        (("boundedness", "state"), r"claims another boundedness than the weights give \(state: 0.5 instead of"),
        (("contraction", "loops_to", "0.001"), "claims another contraction than the weights give"),
    ],
)
def test_a_certificate_with_better_numbers_than_the_weights_give_is_refused(
    certified_run: Path, tmp_path: Path, where: tuple[str, ...], words: str
) -> None:
    certify(certified_run)
    content = json.loads((certified_run / FILE).read_text())
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = 0.5 if isinstance(inner[where[-1]], float) else 1
    (tmp_path / "better.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        check(certified_run, tmp_path / "better.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There is no certificate at"),
        ("no", "is not a certificate"),
        ('{"format": 1}', "is not a certificate"),
        ('{"format": 9}', "has certificate format 9"),
    ],
)
def test_files_that_are_no_certificates_are_refused(
    certified_run: Path, tmp_path: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=words):
        check(certified_run, tmp_path / FILE)


def test_weights_that_are_not_finite_fail_certification(certified_run: Path, tmp_path: Path) -> None:
    bad = altered(certified_run, tmp_path / "bad", "core.layers.0.out.weight", lambda weight: weight * torch.nan)
    with pytest.raises(UserError, match="not all finite"):
        certify(bad)


def test_optimiser_and_progress_do_not_enter_the_hash(certified_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "later"
    out.mkdir()
    tensors = load_file(certified_run / NAME)
    other = next(name for name in tensors if not name.startswith("ema.") and tensors[name].is_floating_point())
    tensors[other] = tensors[other] + 1
    with safe_open(certified_run / NAME, framework="pt") as stream:
        save_file(tensors, out / NAME, metadata=stream.metadata())
    assert claims_of(out).sha256 == claims_of(certified_run).sha256

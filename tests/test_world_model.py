"""The verbs: what they take, what they return, and which step they speak about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from loopwm.data.statistics import Statistics
from loopwm.errors import UserError
from loopwm.model.block import QK_GAIN
from loopwm.model.config import (
    CERTIFIED_LOOP,
    ENTITY_TOKENS,
    SIZES,
    SYSTEMS,
    EntityTokens,
    LoopConfig,
    ModelConfig,
    System,
    sized,
)
from loopwm.model.core import LoopedCore
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ActionSpec, ObservationSpec

ENTITIES = ObservationSpec("entities", (6, 5), ("x", "y", "vx", "vy", "cue"))
VECTOR = ObservationSpec("vector", (7,), tuple("abcdefg"))
PUSH = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
CHOICE = ActionSpec("discrete", 3)


def statistics(spec: ObservationSpec, action: ActionSpec) -> Statistics:
    features, actions = spec.num_features, action.stored_size
    continuous = action.kind == "continuous"
    return Statistics(
        observation_mean=np.linspace(-1, 1, features, dtype=np.float32),
        observation_std=np.linspace(0.5, 2, features, dtype=np.float32),
        observation_changes=np.arange(features) < features - 1,
        action_mean=np.full(actions, 0.2 if continuous else 0.0, np.float32),
        action_std=np.full(actions, 0.7 if continuous else 1.0, np.float32),
        reward_mean=0.0,
        reward_std=1.0,
    )


def make(config: ModelConfig | None = None, spec: ObservationSpec = ENTITIES, action: ActionSpec = PUSH) -> WorldModel:
    torch.manual_seed(0)
    config = config or ModelConfig(width=16, heads=2, tokens=4, loop=LoopConfig(mu=3))
    return WorldModel(config, spec, action, statistics(spec, action)).eval()


def some(
    spec: ObservationSpec, action: ActionSpec, batch: int = 3, steps: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    observations = torch.randn(batch, steps, *spec.shape)
    if action.kind == "discrete":
        return observations, torch.randint(0, action.size, (batch, steps, 1)).float()
    return observations, torch.randn(batch, steps, action.size)


# ---- units ----


def test_rewards_are_read_out_in_the_unit_of_the_training_rewards() -> None:
    """Where every step costs 1 but for a rare one, a young model is about right, and errors are of a usual size."""
    torch.manual_seed(0)
    rare = replace(statistics(ENTITIES, PUSH), reward_mean=-0.99, reward_std=0.015)
    model = WorldModel(ModelConfig(width=16, heads=2), ENTITIES, PUSH, rare)
    latents = torch.randn(50, 6, 16)
    reward = model.decode(latents).reward.detach()
    torch.testing.assert_close(reward, -0.99 + 0.015 * model.reward_head.read(latents.mean(-2))[..., 0])
    assert float((reward + 1).abs().max()) < 0.1
    model.reward_head.forget_units()
    torch.testing.assert_close(model.decode(latents).reward, model.reward_head.read(latents.mean(-2))[..., 0])
    assert not [name for name in model.state_dict() if name in ("reward_head.mean", "reward_head.std")]


# ---- sizes and costs ----


@pytest.mark.parametrize(
    ("size", "looped", "equal_params", "equal_flops"),
    [
        ("nano", 28_107, 28_043, 100_375),
        ("tiny", 109_455, 109_327, 399_399),
        ("small", 431_887, 431_631, 1_593_383),
        ("base", 2_508_831, 2_508_831, 11_873_919),
    ],
)
def test_named_sizes_have_the_documented_parameter_counts(
    size: str, looped: int, equal_params: int, equal_flops: int
) -> None:
    counts = [make(sized(size, ModelConfig(system=system))).num_parameters() for system in SYSTEMS]
    assert counts == [looped, equal_params, equal_flops]
    documented = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    assert f"| `{size}` | {SIZES[size].width} |" in documented and f"| {looped:,} |" in documented


def test_a_size_leaves_the_loop_and_the_system_as_they_are() -> None:
    base = ModelConfig(system="stack-equal-flops", width=16, heads=2, mlp_ratio=2, loop=LoopConfig(mu=3, abar=0.5))
    assert sized("base", base) == replace(SIZES["base"], system="stack-equal-flops", loop=base.loop)


def test_an_unknown_size_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="nano, tiny, small, base"):
        sized("huge")
    with pytest.raises(UserError, match="did you mean 'small'"):
        sized("smal")


@pytest.mark.parametrize("size", list(SIZES))
def test_the_stacks_match_what_they_are_named_after(size: str) -> None:
    looped, params, flops = (make(sized(size, ModelConfig(system=system))) for system in SYSTEMS)
    assert abs(params.num_parameters() / looped.num_parameters() - 1) < 0.01
    assert abs(flops.flops().step / looped.flops().step - 1) < 0.02
    assert looped.num_parameters() <= 0.30 * flops.num_parameters()


@pytest.mark.parametrize("spec", [ENTITIES, VECTOR])
@pytest.mark.parametrize("action", [PUSH, CHOICE])
@pytest.mark.parametrize("entity_tokens", ENTITY_TOKENS)
@pytest.mark.parametrize(
    ("system", "shared", "certified"),
    [*((system, 1, False) for system in SYSTEMS), *(("looped", n, True) for n in (1, 2))],
)
def test_flop_accounting_equals_what_torch_counts_while_running(
    spec: ObservationSpec,
    action: ActionSpec,
    entity_tokens: EntityTokens,
    system: System,
    shared: int,
    certified: bool,
) -> None:
    loop = replace(CERTIFIED_LOOP, mu=3) if certified else LoopConfig(mu=3)
    sizes = ModelConfig(width=16, heads=2, tokens=4, entity_tokens=entity_tokens)
    model = make(replace(sizes, system=system, shared=shared, loop=loop), spec, action)
    observations, actions = some(spec, action, batch=1, steps=1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        h = model.observe(observations, actions)
        model.decode(h)
    assert counter.get_total_flops() == model.flops().total


@pytest.mark.parametrize("certified", [False, True])
def test_parameter_accounting_adds_up_and_the_printout_shows_it(certified: bool) -> None:
    model = make(replace(sized("tiny"), loop=CERTIFIED_LOOP if certified else LoopConfig()))
    lines = repr(model).splitlines()
    counts = [int(line.split()[1].replace(",", "")) for line in lines[1:]]
    assert sum(counts[:-1]) == counts[-1] == sum(p.numel() for p in model.parameters())
    assert any("block" in line and "x 7 loops" in line for line in lines)


def test_parameters_do_not_depend_on_the_number_of_loops_and_compute_does() -> None:
    few, many = (make(replace(sized("tiny"), loop=LoopConfig(mu=mu))) for mu in (2, 12))
    assert few.num_parameters() == many.num_parameters()
    assert many.flops().step - few.flops().step == 10 * few.flops().block


# ---- verbs ----


@pytest.mark.parametrize("spec", [ENTITIES, VECTOR])
@pytest.mark.parametrize("action", [PUSH, CHOICE])
def test_shapes_of_every_verb(spec: ObservationSpec, action: ActionSpec) -> None:
    model = make(spec=spec, action=action)
    observations, actions = some(spec, action)
    latents = model.observe(observations, actions)
    assert latents.shape == (3, 4, model.tokens, 16)
    prediction = model.decode(latents)
    assert prediction.observation.shape == (3, 4, *spec.shape)
    assert prediction.reward.shape == prediction.continue_probability.shape == (3, 4)


def test_entities_taken_together_are_read_and_decoded_as_one_vector_would_be() -> None:
    sizes = ModelConfig(width=16, heads=2, tokens=4, loop=LoopConfig(mu=3), entity_tokens="together")
    model = make(sizes)
    observations, actions = some(ENTITIES, PUSH)
    assert model.tokens == 4 != ENTITIES.shape[0]
    # The same weights, given the same numbers as a flat vector, each with a mean and a spread of its own.
    flat = ObservationSpec("vector", (ENTITIES.size,), tuple(map(str, range(ENTITIES.size))))
    units = statistics(ENTITIES, PUSH)
    names = ("observation_mean", "observation_std", "observation_changes")
    repeated = {name: np.tile(getattr(units, name), ENTITIES.shape[0]) for name in names}
    vector = WorldModel(sizes, flat, PUSH, replace(units, **repeated)).eval()
    state = {name: value for name, value in model.state_dict().items() if name not in names}
    vector.load_state_dict(state, strict=False)
    got = model.decode(model.imagine(actions, observation=observations[:, 0])).observation
    wanted = vector.decode(vector.imagine(actions, observation=observations[:, 0].flatten(1))).observation
    torch.testing.assert_close(got.flatten(-2), wanted)
    # Unlike with a token each, it matters which entity is which.
    assert not torch.allclose(model.encode(observations), model.encode(observations.flip(-2)))


def test_imagining_is_observing_that_stops_looking() -> None:
    model = make()
    observations, actions = some(ENTITIES, PUSH)
    seen = model.observe(observations[:, :1], actions[:, :1])[:, -1]
    later = model.imagine(actions[:, 1:], h=seen)
    whole = model.imagine(actions, observation=observations[:, 0])
    torch.testing.assert_close(whole[:, 0], seen)
    torch.testing.assert_close(whole[:, 1:], later)
    by_hand = model.step(model.step(seen, actions[:, 1]), actions[:, 2])
    torch.testing.assert_close(later[:, 1], by_hand)


def test_a_policy_sees_the_latent_and_the_observation_only_while_there_is_one() -> None:
    model = make()
    observations, _ = some(ENTITIES, PUSH)
    calls: list[tuple[float, bool]] = []

    def policy(h: torch.Tensor, e: torch.Tensor | None) -> torch.Tensor:
        calls.append((float(h.detach().abs().sum()), e is not None))
        return h.mean(1)[:, :2]

    latents = model.imagine(policy, observation=observations[:, 0], horizon=3)
    actions = torch.stack([torch.zeros(3, 2), latents[:, 0].mean(1)[:, :2], latents[:, 1].mean(1)[:, :2]], 1)
    torch.testing.assert_close(latents, model.imagine(actions, observation=observations[:, 0]))
    assert [seen for _, seen in calls] == [True, False, False]


def test_memory_travels_from_step_to_step() -> None:
    model = make()
    observations, actions = some(ENTITIES, PUSH)
    changed = observations.clone()
    changed[:, 0] += 1
    first, second = (model.observe(o, actions)[:, -1] for o in (observations, changed))
    assert (first - second).abs().max() > 1e-4


def test_predictions_come_in_environment_units() -> None:
    """Another unit of length in the statistics and the data changes the decoded observation by just that unit."""
    model, metres = make(), some(ENTITIES, PUSH)
    scaled = make()
    scaled.observation_mean.mul_(100)
    scaled.observation_std.mul_(100)
    with torch.no_grad():
        a = model.decode(model.observe(*metres)).observation
        b = scaled.decode(scaled.observe(100 * metres[0], metres[1])).observation
    torch.testing.assert_close(100 * a, b, rtol=1e-4, atol=1e-3)


def test_the_model_is_permutation_equivariant_in_the_entities() -> None:
    model = make()
    observations, actions = some(ENTITIES, PUSH)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    with torch.no_grad():
        plain = model.decode(model.imagine(actions, observation=observations[:, 0]))
        shuffled = model.decode(model.imagine(actions, observation=observations[:, 0][:, order]))
    torch.testing.assert_close(plain.observation[:, :, order], shuffled.observation, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.reward, shuffled.reward, rtol=1e-4, atol=1e-5)


def test_num_loops_is_a_run_time_argument_per_row() -> None:
    model, trace = make(), Trace()
    observations, actions = some(ENTITIES, PUSH)
    loops = torch.tensor([1, 6, 2])
    with torch.no_grad():
        mixed = model.imagine(actions, observation=observations[:, 0], num_loops=loops, trace=trace)
        for row, depth in enumerate(loops.tolist()):
            alone = model.imagine(actions[[row]], observation=observations[[row], 0], num_loops=depth)
            torch.testing.assert_close(mixed[[row]], alone, rtol=1e-4, atol=1e-5)
    assert trace.loops.tolist() == [[n] * 4 for n in (1, 6, 2)]
    assert trace.residual.shape == (6, 3, 4)


def test_the_default_number_of_loops_is_mu() -> None:
    model, trace = make(), Trace()
    observations, actions = some(ENTITIES, PUSH)
    model.observe(observations, actions, trace=trace)
    assert set(trace.loops.flatten().tolist()) == {3}


# ---- bad input ----


def test_a_stack_has_nothing_to_loop() -> None:
    model = make(ModelConfig(system="stack-equal-flops", width=16, heads=2))
    observations, actions = some(ENTITIES, PUSH)
    with pytest.raises(UserError, match="no loop to repeat"):
        model.observe(observations, actions, num_loops=4)


def test_wrong_shapes_are_refused_with_both_shapes() -> None:
    model = make()
    observations, actions = some(ENTITIES, PUSH)
    with pytest.raises(UserError, match=r"\(6, 5\).*\(3, 4, 6, 4\)"):
        model.encode(observations[..., :4])
    with pytest.raises(UserError, match=r"action to have shape \(2,\)"):
        model.step(model.initial(3), actions[:, 0, :1])
    with pytest.raises(UserError, match="one action per observation"):
        model.observe(observations, actions[:, :-1])


def test_imagining_needs_a_start_and_a_horizon() -> None:
    model = make()
    observations, actions = some(ENTITIES, PUSH)
    with pytest.raises(UserError, match="needs a start"):
        model.imagine(actions)
    with pytest.raises(UserError, match="horizon"):
        model.imagine(lambda h, e: h[:, 0, :2], observation=observations[:, 0])


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"width": 30, "heads": 4}, "multiple of model.heads"),
        ({"width": 0}, "model.width must be at least 1"),
        ({"system": "tower"}, "model.system must be one of"),
    ],
)
def test_impossible_sizes_are_refused(bad: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ModelConfig(**bad)


@pytest.mark.parametrize("bad", [{"retention": "foo"}, {"depth_law": "foo"}, {"gradient": "foo"}, {"abar": 1.0}])
def test_unknown_switches_are_refused(bad: dict) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        LoopConfig(**bad)


def test_mu_below_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"mu must be at least 1, got 0"):
        LoopConfig(mu=0)


def test_b_retention_and_norms_are_initialised_as_documented() -> None:
    core = make(sized("tiny")).core
    assert isinstance(core, LoopedCore)
    torch.testing.assert_close(core.B.weight, torch.eye(64))
    assert core.retention.a.abs().max() == 0
    assert core.block.blocks[0].attention.gain.unique().tolist() == [QK_GAIN]  # type: ignore[union-attr]

"""Planning decodes the end of an imagined future alone; monitoring reads summaries on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from loopwm.data.cache import Columns
from loopwm.data.statistics import Statistics, compute_statistics
from loopwm.errors import UserError
from loopwm.evaluate.segments import rollouts
from loopwm.evaluate.summaries import summary_errors
from loopwm.model.config import EntityTokens, LoopConfig, ModelConfig
from loopwm.model.encoders import EntityEncoder
from loopwm.model.readout import Readout
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ActionSpec, ObservationSpec

ENTITIES = ObservationSpec("entities", (6, 5), ("x", "y", "vx", "vy", "cue"))
VECTOR = ObservationSpec("vector", (7,), tuple("abcdefg"))
PUSH = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
SMALL = ModelConfig(width=16, heads=2, tokens=4, loop=LoopConfig(mu=3), summary=True)


def make(spec: ObservationSpec = ENTITIES, config: ModelConfig = SMALL) -> WorldModel:
    torch.manual_seed(0)
    features = spec.num_features
    scales = Statistics(
        observation_mean=np.linspace(-1, 1, features, dtype=np.float32),
        observation_std=np.linspace(0.5, 2, features, dtype=np.float32),
        observation_changes=np.arange(features) < features - 1,
        action_mean=np.full(2, 0.2, np.float32),
        action_std=np.full(2, 0.7, np.float32),
        reward_mean=0.0,
        reward_std=1.0,
    )
    return WorldModel(config, spec, PUSH, scales).eval().requires_grad_(False)


def some(spec: ObservationSpec, batch: int = 3, steps: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, steps, *spec.shape), torch.randn(batch, steps, 2)


# ---- planning ----


def test_foreseeing_is_decoding_the_end_of_imagining_and_calls_each_head_once() -> None:
    model = make()
    observations, actions = some(ENTITIES, steps=7)
    whole = model.decode(model.imagine(actions, observation=observations[:, 0]))
    calls: list[torch.Size] = []
    heads = (model.observation_head, model.reward_head, model.continue_head)
    hooks = [head.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape)) for head in heads]
    trace = Trace()
    end = model.foresee(actions, observation=observations[:, 0], trace=trace)
    for hook in hooks:
        hook.remove()
    assert calls == [torch.Size((3, 6, 16))] * 3
    assert trace.loops.shape == (3, 7)
    for name in ("observation", "reward", "continue_logit"):
        torch.testing.assert_close(getattr(end, name), getattr(whole, name)[:, -1])


def test_foreseeing_takes_what_imagining_takes() -> None:
    model = make()
    observations, actions = some(ENTITIES)
    h = model.observe(observations[:, :2], actions[:, :2])[:, -1]

    def policy(h: Tensor, e: Tensor | None) -> Tensor:
        return h.mean(1)[:, :2]

    loops = torch.tensor([1, 2, 5])
    later = model.foresee(actions[:, 2:], h=h, num_loops=loops).observation
    torch.testing.assert_close(
        later, model.decode(model.imagine(actions[:, 2:], h=h, num_loops=loops)[:, -1]).observation
    )
    acted = model.foresee(policy, h=h, horizon=3).reward
    torch.testing.assert_close(acted, model.decode(model.imagine(policy, h=h, horizon=3)).reward[:, -1])
    with pytest.raises(UserError, match="needs a start"):
        model.foresee(actions)
    with pytest.raises(UserError, match="horizon"):
        model.foresee(policy, h=h)


def test_foreseeing_nothing_is_refused() -> None:
    model = make()
    observations, actions = some(ENTITIES)
    with pytest.raises(UserError, match="at least one action"):
        model.foresee(actions[:, :0], observation=observations[:, 0])


# ---- monitoring ----


def test_a_model_without_a_summary_head_says_so() -> None:
    model = make(config=replace(SMALL, summary=False))
    with pytest.raises(UserError, match=r"without a summary head.*loopwm train deferred"):
        model.summary(model.initial(2))


@pytest.mark.parametrize("spec", [ENTITIES, VECTOR, ObservationSpec("vector", (3,), ("a", "b", "c"))])
@pytest.mark.parametrize(("tokens", "entity_tokens"), [(1, "each"), (4, "each"), (4, "together")])
def test_an_embedding_is_read_back_as_the_observation_it_was_made_from(
    spec: ObservationSpec, tokens: int, entity_tokens: EntityTokens
) -> None:
    model = make(spec, replace(SMALL, tokens=tokens, entity_tokens=entity_tokens))
    observations, _ = some(spec)
    readout = Readout(model)
    embedding = model.encode(observations)
    torch.testing.assert_close(readout.observation(embedding), observations, rtol=1e-4, atol=1e-4)
    assert readout.strangeness(embedding).shape == observations.shape[: -len(spec.shape)]
    assert readout.surprise(embedding, observations).shape == observations.shape[: -len(spec.shape)]
    assert float(readout.strangeness(embedding).max()) < 1e-5


@pytest.mark.parametrize("spec", [ENTITIES, VECTOR])
def test_a_readout_is_the_least_squares_fit_of_an_embedding(spec: ObservationSpec) -> None:
    """No other observation has an embedding nearer to what is read; the rest of it is its strangeness."""
    model, readout = make(spec), Readout(make(spec))
    embedding = torch.randn(1, model.tokens, 16)
    near = readout.observation(embedding)
    distance = (model.encode(near) - embedding).norm()
    for seed in range(20):
        torch.manual_seed(seed)
        other = near + 0.05 * torch.randn_like(near)
        assert (model.encode(other) - embedding).norm() > distance
    zero = model.encode(model.observation_mean.expand(1, *spec.shape))
    expected = distance / (embedding - zero).norm()
    torch.testing.assert_close(readout.strangeness(embedding)[0], expected, rtol=1e-4, atol=1e-5)


def test_surprise_is_the_distance_to_what_was_seen_in_standard_deviations() -> None:
    model = make()
    observations, _ = some(ENTITIES)
    readout, embedding = Readout(model), model.encode(observations)
    moved = observations + 3 * model.observation_std
    torch.testing.assert_close(readout.surprise(embedding, moved), torch.full((3, 4), 3.0), rtol=1e-4, atol=1e-4)
    # What never changes within an episode surprises nobody.
    relabelled = observations.clone()
    relabelled[..., 4] += 7
    assert float(readout.surprise(embedding, relabelled).max()) < 1e-4


def test_an_encoder_that_loses_a_feature_cannot_be_read() -> None:
    model = make()
    assert isinstance(model.encoder, EntityEncoder)
    model.encoder.embed.weight[:, 2] = 0
    with pytest.raises(UserError, match="cannot be read back"):
        Readout(model)


def test_summary_errors_are_those_of_the_read_summaries(billiards_columns: Columns) -> None:
    torch.manual_seed(0)
    meta = billiards_columns.meta
    statistics = compute_statistics(billiards_columns, np.arange(40))
    model = WorldModel(SMALL, meta.observation, meta.action, statistics).eval().requires_grad_(False)
    segments = rollouts(billiards_columns, np.arange(40, 50), 12)
    errors = summary_errors(model, segments, batch=7)
    assert bool((np.isnan(errors.observation) == ~segments.valid).all())
    readout, row, k = Readout(model), 3, 2
    start, actions = torch.from_numpy(segments.observations[[row], 0]), torch.from_numpy(segments.actions[[row]])
    summary = model.summary(model.imagine(actions, observation=start))[0, k]
    seen = torch.from_numpy(segments.observations[row, k + 1])
    surprise = float(readout.surprise(summary, seen))
    assert errors.observation[row, k] == pytest.approx(surprise**2, rel=1e-3)
    assert errors.strangeness[row, k] == pytest.approx(float(readout.strangeness(summary)), rel=1e-3)
    wrong = (readout.observation(summary) - seen)[:, meta.observation.names.index("vx")]
    assert errors.features["vx"][row, k] == pytest.approx(float(wrong.square().mean()), rel=1e-3)
    assert "cue" not in errors.features

"""Encoders and decoders of images: shapes, places, costs and bounds; and objectives without a decoder."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.utils.flop_counter import FlopCounterMode

from loopwm.certify.bounds import observation_reach
from loopwm.data.statistics import Statistics
from loopwm.errors import UserError
from loopwm.model.config import SYSTEMS, ImageEncoder, LoopConfig, ModelConfig, System, sized
from loopwm.model.images import ConvEncoder, halvings, joined, patches, token_grid
from loopwm.model.readout import Readout
from loopwm.model.world_model import WorldModel
from loopwm.presets import RunConfig, preset
from loopwm.spaces import ActionSpec, ObservationSpec, channel_names
from loopwm.train.checkpoint import Blueprint, weights_digest
from loopwm.train.config import EmbedConfig, LossConfig, TrainConfig
from loopwm.train.embedding import directions, epps_pulley, sigreg
from loopwm.train.losses import visible_steps
from loopwm.train.optimiser import parameter_groups

IMAGE = ObservationSpec("image", (32, 32, 3), channel_names(3))
PUSH = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
ENCODERS: tuple[ImageEncoder, ...] = ("conv", "patch")


def make(
    encoder: ImageEncoder = "conv", tokens: int = 4, system: System = "looped", spec: ObservationSpec = IMAGE
) -> WorldModel:
    torch.manual_seed(0)
    channels = spec.num_features
    statistics = Statistics(
        observation_mean=np.linspace(40, 90, channels, dtype=np.float32),
        observation_std=np.linspace(30, 60, channels, dtype=np.float32),
        observation_changes=np.ones(channels, bool),
        action_mean=np.zeros(2, np.float32),
        action_std=np.ones(2, np.float32),
        reward_mean=0.0,
        reward_std=1.0,
    )
    config = ModelConfig(
        width=32, heads=2, tokens=tokens, image_encoder=encoder, system=system, loop=LoopConfig(mu=3), summary=True
    )
    return WorldModel(config, spec, PUSH, statistics).eval()


def some(batch: int = 3, steps: int = 4, spec: ObservationSpec = IMAGE) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 256, (batch, steps, *spec.shape), dtype=torch.uint8), torch.randn(batch, steps, 2)


# ---- tokens over an image ----


def test_tokens_lie_in_the_squarest_grid_that_fits() -> None:
    assert token_grid(16, 64, 64) == (4, 4)
    assert token_grid(8, 64, 64) in {(2, 4), (4, 2)}
    assert token_grid(6, 48, 32) == (3, 2)
    with pytest.raises(UserError, match="tokens = 7 cannot be laid out as a grid of equal patches"):
        token_grid(7, 64, 64)
    assert halvings(16, 64, 64) == [(2, 2)] * 4
    with pytest.raises(UserError, match="patches of 12 by 12 pixels are not powers of two"):
        halvings(16, 48, 48)


def test_patches_are_the_pieces_of_the_image_and_join_to_it_again() -> None:
    image = torch.arange(2 * 6 * 8 * 3).reshape(2, 6, 8, 3)
    parts = patches(image, (3, 4))
    assert parts.shape == (2, 12, 12)
    torch.testing.assert_close(parts[1, 5], image[1, 2:4, 2:4].flatten())
    torch.testing.assert_close(joined(parts, (3, 4), (6, 8, 3)), image)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("tokens", [4, 8, 16])
def test_bytes_go_in_and_images_in_the_same_units_come_out(encoder: ImageEncoder, tokens: int) -> None:
    model = make(encoder, tokens)
    observations, actions = some()
    latents = model.observe(observations, actions)
    assert latents.shape == (3, 4, tokens, 32)
    assert model.decode(latents).observation.shape == observations.shape
    torch.testing.assert_close(model.encode(observations), model.encode(observations.float()))
    # What is decoded follows the units of the training data.
    model.observation_mean += 10
    moved = model.decode(latents).observation
    model.observation_mean -= 10
    torch.testing.assert_close(moved - model.decode(latents).observation, torch.full_like(moved, 10))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_token_stands_for_its_place(encoder: ImageEncoder) -> None:
    """A change in one corner reaches the token of that corner, and its decoding stays there."""
    model = make(encoder, 16)
    image = torch.full((1, 32, 32, 3), 100.0)
    other = image.clone()
    other[:, :3, :3] = 200
    with torch.no_grad():
        change = (model.encode(other) - model.encode(image)).norm(dim=-1)[0]
        h = torch.randn(1, 16, 32)
        moved = h.clone()
        moved[:, 15] += 1
        drawn = (model.decode(moved).observation - model.decode(h).observation).abs().amax(-1)[0]
    assert int(change.argmax()) == 0 and float(change[15]) == 0
    assert float(drawn[-8:, -8:].max()) > 0.1 and float(drawn[:8, :8].max()) == 0


def test_an_untrained_encoder_tells_images_apart() -> None:
    """With the usual start of convolutions the spread of embeddings is a hundredth of this."""
    observations, _ = some(batch=64, steps=1)
    with torch.no_grad():
        smooth = torch.nn.functional.avg_pool2d(observations[:, 0].float().permute(0, 3, 1, 2), 16)
        images = smooth.repeat_interleave(16, 2).repeat_interleave(16, 3).permute(0, 2, 3, 1) * 8 - 900
        assert float(make("conv").encode(images).std(0).mean()) > 0.1


# ---- costs ----


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_flops_of_images_are_those_torch_counts_and_parameters_add_up(encoder: ImageEncoder, system: System) -> None:
    model = make(encoder, 8, system)
    observations, actions = some(1, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.decode(model.observe(observations, actions))
    assert counter.get_total_flops() == model.flops().total
    lines = repr(model).splitlines()
    counts = [int(line.split()[1].replace(",", "")) for line in lines[1:]]
    assert sum(counts[:-1]) == counts[-1] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_stacks_match_the_looped_model_on_images_too(encoder: ImageEncoder) -> None:
    looped, params, flops = (make(encoder, 8, system) for system in SYSTEMS)
    assert abs(params.num_parameters() / looped.num_parameters() - 1) < 0.01
    assert abs(flops.flops().step / looped.flops().step - 1) < 0.02


def test_convolutions_decay_and_positions_do_not() -> None:
    model = make("conv")
    assert isinstance(model.encoder, ConvEncoder)
    decayed = {id(p) for p in parameter_groups(model, preset("pixels").config.optim)[0]["params"]}
    assert all(id(stage.weight) in decayed for stage in model.encoder.stages)
    assert id(model.encoder.position) not in decayed


# ---- what else looks at an encoder ----


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_image_within_the_bound_is_embedded_beyond_it(encoder: ImageEncoder) -> None:
    model = make(encoder).double()
    with torch.no_grad():
        reach = observation_reach(model.encoder, 2.0)
    draws = torch.Generator().manual_seed(1)
    shown = 4 * torch.rand(50, 32, 32, 3, generator=draws, dtype=torch.float64) - 2
    shown = torch.cat([shown, 2 * shown.sign()])
    with torch.no_grad():
        found = model.encoder(shown)
    assert bool((found.abs() <= reach.channel + 1e-9).all()) and float(found.norm(dim=-1).max()) <= reach.norm


def test_embeddings_of_images_are_not_read_back() -> None:
    with pytest.raises(UserError, match="far fewer numbers than the image"):
        Readout(make("patch"))


def test_weights_from_before_there_were_images_and_texts_keep_their_digest() -> None:
    vector = ObservationSpec("vector", (3,), ("a", "b", "c"))
    state, seen = (Blueprint(ModelConfig(), spec, PUSH) for spec in (vector, IMAGE))
    old = asdict(state)
    del old["model"]["image_encoder"], old["model"]["text"], old["model"]["entity_tokens"]
    assert weights_digest(state, {}) == sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    several = Blueprint(ModelConfig(), ObservationSpec("entities", (2, 3), ("a", "b", "c")), PUSH)
    old = asdict(several)
    del old["model"]["image_encoder"], old["model"]["text"], old["model"]["entity_tokens"]
    assert weights_digest(several, {}) == sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    other = replace(several, model=replace(several.model, entity_tokens="together"))
    assert weights_digest(several, {}) != weights_digest(other, {})
    other = replace(seen, model=replace(seen.model, image_encoder="patch"))
    assert weights_digest(seen, {}) != weights_digest(other, {})


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="image_encoder must be one of conv, patch"):
        ModelConfig(image_encoder="vit")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="entity_tokens must be one of each, together"):
        ModelConfig(entity_tokens="all")  # type: ignore[arg-type]
    small = sized("nano", ModelConfig(image_encoder="patch", entity_tokens="together"))
    assert (small.image_encoder, small.entity_tokens) == ("patch", "together")
    with pytest.raises(UserError, match=r"decodes nothing, so loss\.decoding must stay"):
        LossConfig(objective="embed", decoding="deferred")
    with pytest.raises(UserError, match="'embed' trains the summary head, and this model has none"):
        RunConfig(loss=LossConfig(objective="embed"))
    with pytest.raises(UserError, match="odd and at least 5"):
        EmbedConfig(knots=4)
    with pytest.raises(UserError, match=r"loss\.shown must be at least 1"):
        LossConfig(shown=0)
    with pytest.raises(UserError, match=r"train\.shift must not be negative"):
        TrainConfig(shift=-1)


def test_windows_show_as_many_images_as_speeds_need() -> None:
    visible = visible_steps(4000, 8, 0.5, torch.Generator().manual_seed(0), shown=4)
    assert bool(visible[:, :4].all()) and set(visible.sum(1).tolist()) == {4, 5, 6, 7, 8}
    # Windows that are shorter are shown whole.
    assert bool(visible_steps(50, 3, 0.0, torch.Generator().manual_seed(0), shown=4).all())


# ---- SIGReg ----


def direct(x: np.ndarray) -> float:
    """The integral by adaptive quadrature, the characteristic function summed number by number."""

    def integrand(t: float) -> float:
        empirical = np.exp(1j * t * x).mean()
        return abs(empirical - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)

    return quad(integrand, -5, 5, limit=200)[0]


@pytest.mark.parametrize("law", ["gaussian", "narrow", "bimodal", "shifted", "collapsed"])
def test_the_statistic_is_the_integral_it_stands_for(law: str) -> None:
    draws = np.random.default_rng(0).standard_normal(400)
    x = {
        "gaussian": draws,
        "narrow": 0.3 * draws,
        "bimodal": np.sign(draws) + 0.1 * draws,
        "shifted": draws + 1,
        "collapsed": np.zeros(400),
    }[law]
    found = float(epps_pulley(torch.tensor(x)[:, None], 17)[0])
    assert found == pytest.approx(direct(x), rel=0.02, abs=1e-4)


def test_the_statistic_is_small_for_gaussians_alone() -> None:
    draws = torch.Generator().manual_seed(0)
    samples = torch.randn(2000, 24, generator=draws)
    along = directions(24, 200, draws)
    torch.testing.assert_close(along.norm(dim=0), torch.ones(200))
    good = float(sigreg(samples, along, 17))
    # What n samples of N(0, 1) give, times n.
    floor = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)
    assert good == pytest.approx(floor / 2000, rel=0.3)
    mixed = torch.where(torch.rand(2000, 1, generator=draws) < 0.5, 2.0, -2.0) + 0.2 * samples
    flat = samples * torch.tensor([1.0] * 4 + [0.0] * 20)
    for bad in (torch.zeros(2000, 24), 0.1 * samples, mixed, flat):
        assert float(sigreg(bad, along, 17)) > 50 * good


def test_following_the_statistic_makes_a_cloud_gaussian() -> None:
    draws = torch.Generator().manual_seed(0)
    cloud = (0.05 * torch.randn(256, 6, generator=draws)).requires_grad_()
    optimiser = torch.optim.Adam([cloud], lr=0.03)
    for _ in range(300):
        optimiser.zero_grad()
        sigreg(cloud, directions(6, 64, draws), 17).backward()
        optimiser.step()
    covariance = torch.cov(cloud.detach().T)
    assert float((covariance - torch.eye(6)).abs().max()) < 0.2


def test_the_preset_reads_its_own_world() -> None:
    found = preset("pixels")
    assert (found.world, found.config.data) == ("billiards-pixels", Path("data/billiards-pixels.h5"))
    assert found.config.loss.shown < found.config.train.window

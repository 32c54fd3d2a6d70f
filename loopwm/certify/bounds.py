"""Claim B: how large any latent can get, from the weights alone, for every input, any horizon and any number of loops.

Everything is bounded per token and in float64. docs/certificate.md derives the formulas.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loopwm.model.block import Block
from loopwm.model.certified import CertifiedCore
from loopwm.model.core import LoopedCore
from loopwm.model.encoders import ObservationEncoder, VectorEncoder
from loopwm.model.images import ConvEncoder, PatchEncoder
from loopwm.model.text.encoders import TextActionEncoder, TextEncoder, WordEncoder
from loopwm.model.world_model import WorldModel

OBSERVED = 10.0
"""Standard deviations; recorded observations of bounded worlds stay well below."""


@dataclass(frozen=True)
class Boundedness:
    """Largest 2-norm of one token of (..., N, D), whatever is done.

    Attributes:
        carried: of h_k, for every k.
        state: of the loop state h^(t), for every t; None for a stack, which has no loop.
        channel: largest magnitude of one number of h^(t); None for a stack.
        held: of the part of the update that no loop changes; None for a stack.
        branches: name -> of each branch of R, as it enters the state.
        observed: observations assumed for `state`, `channel` and `held`, in standard deviations; None for all of them.
    """

    carried: float
    state: float | None = None
    channel: float | None = None
    held: float | None = None
    branches: dict[str, float] | None = None
    observed: float | None = None


@dataclass(frozen=True)
class Reach:
    """Bounds on a token: `channel` (D,) on the magnitude of each number, `norm` on the 2-norm."""

    channel: Tensor
    norm: float

    def __add__(self, other: Reach) -> Reach:
        return Reach(self.channel + other.channel, self.norm + other.norm)


def boundedness(model: WorldModel, observed: float = OBSERVED) -> Boundedness:
    """Claim B of a model's weights.

    Args:
        observed: largest observation and unbounded action considered, in standard deviations of the training data. It
            matters to the loop state only, and only where the input of the loop is not normalised.
    """
    model = copy.deepcopy(model).double()
    core = model.core
    with torch.no_grad():
        if not isinstance(core, LoopedCore):
            assert isinstance(core.prelude.norm, nn.RMSNorm)
            return Boundedness(float(normalised(core.prelude.norm).max()))
        carried = normalised(core.norm_out)
        e = input_reach(model, observed)
        held, branches = update_parts(core, e)
        nothing = Reach(0 * carried, 0.0)
        start = {"input": e, "previous": Reach(carried, float(carried.max()))}.get(core.loop.start, nothing)
        state = loop_reach(core, sum(branches.values(), held), start)
    norms = {name: branch.norm for name, branch in branches.items()}
    given = None if core.loop.normalise_input else observed
    return Boundedness(float(carried.max()), state.norm, float(state.channel.max()), held.norm, norms, given)


def input_reach(model: WorldModel, observed: float) -> Reach:
    """Of e: normalised, or the sum of what enters the prelude and of what its layers add."""
    core = model.core
    assert isinstance(core, LoopedCore)
    prelude = core.prelude
    if isinstance(prelude.norm, nn.RMSNorm):
        channel = normalised(prelude.norm)
        return Reach(channel, float(channel.max()))
    carried = normalised(core.norm_out)
    total = mapped(prelude.from_latent.weight, Reach(carried, float(carried.max())))
    total = total + observation_reach(model.encoder, observed) + action_reach(model, observed)
    ones = torch.ones_like(carried)
    for block in prelude.layers.blocks:
        assert isinstance(block, Block)
        total = total + attention_reach(block, ones) + mlp_reach(block, ones)
    return total


def observation_reach(encoder: ObservationEncoder, observed: float) -> Reach:
    """Of E(o) for |o| <= observed standard deviations, per number; of a text, whatever its words."""
    if isinstance(encoder, TextEncoder):
        return words_reach(encoder)
    seen = torch.full_like(encoder.embed.weight[0], observed)
    if isinstance(encoder, ConvEncoder):
        seen = seen.new_full((encoder.shape[-1],), observed)
        for stage in encoder.stages:
            assert isinstance(stage, nn.Conv2d) and stage.bias is not None
            # Per channel, whatever the pixel: |GELU(x)| <= |x|, and the padding is 0.
            seen = stage.weight.abs().sum((2, 3)) @ seen + stage.bias.abs()
    channel = encoder.embed.weight.abs() @ seen + encoder.embed.bias.abs()
    if isinstance(encoder, VectorEncoder):
        channel = (channel.view_as(encoder.position) + encoder.position.abs()).amax(0)
    elif isinstance(encoder, ConvEncoder | PatchEncoder):
        channel = channel + encoder.position.abs().amax(0)
    return Reach(channel, float(channel.norm()))


def words_reach(encoder: WordEncoder) -> Reach:
    """Of what a text is summed up to: a linear map of a normalised state."""
    gain, weight = encoder.norm_out.weight.detach().abs(), encoder.out.weight.detach()
    channel = weight.abs() @ (gain * math.sqrt(len(gain)))
    return Reach(channel, float(weight.norm() * gain.max() * math.sqrt(len(gain))))


def action_reach(model: WorldModel, observed: float) -> Reach:
    """Of U(a), for every action of a bounded space and otherwise for |a| <= observed standard deviations."""
    if isinstance(model.action_encoder, TextActionEncoder):
        return words_reach(model.action_encoder)
    weight, spec = model.action_encoder.embed.weight, model.action
    if spec.choices:
        # Every part adds the column of one of its choices.
        channel = sum((part.abs().amax(1) for part in weight.split(list(spec.choices), dim=1)), weight.new_zeros(()))
        return Reach(channel, float(channel.norm()))
    ends = torch.tensor([spec.low, spec.high]).to(weight)
    largest = ((ends - model.action_mean) / model.action_std).abs().amax(0)
    channel = weight.abs() @ largest.nan_to_num(nan=observed, posinf=observed)
    return Reach(channel, float(channel.norm()))


def normalised(norm: nn.RMSNorm) -> Tensor:
    """sqrt(D) |gain|, (D,): its largest entry bounds the token's 2-norm, each entry the magnitude of a channel."""
    return math.sqrt(len(norm.weight)) * norm.weight.abs()


def loop_reach(core: LoopedCore, driven: Reach, start: Reach) -> Reach:
    """Where h^(t) can get from a start within `start`, when all parts of an update reach `driven`."""
    abar, _ = core.retention.discretise()
    if core.loop.retention == "zoh":
        # h' = Abar h + (1 - Abar) G is a convex combination, channel by channel.
        channel = torch.maximum(start.channel, driven.channel)
        return Reach(channel, float(channel.norm()))
    # h' = Abar h + (what drives it): a geometric series.
    channel = torch.maximum(start.channel, driven.channel / (1 - abar))
    series = max(start.norm, driven.norm / (1 - float(abar.max())))
    return Reach(channel, min(series, float(channel.norm())))


def update_parts(core: LoopedCore, e: Reach) -> tuple[Reach, dict[str, Reach]]:
    """Held input and branches of one update, each multiplied by what the update multiplies it by."""
    if isinstance(core, CertifiedCore):
        return mapped(core.B.weight, e), {"contraction": contraction_reach(core, e)}
    _, gain = core.retention.discretise()
    euler = core.loop.retention == "euler"
    scale = torch.ones_like(gain) if euler else gain
    held = mapped((core.retention.delta if euler else gain)[:, None] * core.B.weight, e)
    branches: dict[str, Reach] = {}
    for index, block in enumerate(core.block.blocks):
        assert isinstance(block, Block)
        marks = core.phases.marks[:, index, :, 0]
        branches[f"block {index}, attention"] = attention_reach(block, scale, marks)
        branches[f"block {index}, MLP"] = mlp_reach(block, scale, marks)
    return held, branches


def mapped(weight: Tensor, x: Reach) -> Reach:
    """Of W x: weight (O, D)."""
    channel = torch.minimum(weight.abs() @ x.channel, weight.norm(dim=1) * x.norm)
    return Reach(channel, min(spectral(weight) * x.norm, float(channel.norm())))


def marked(gain: Tensor, marks: Tensor | None) -> Tensor:
    """Largest magnitude of a gain (D,) over the loops, each of which adds its mark (P, D) times the gain."""
    if marks is None or not len(marks):
        return gain.abs()
    return (gain * (1 + marks)).abs().amax(0)


def linear_reach(weight: Tensor, gain: Tensor) -> Reach:
    """Of W Norm(x): weight (O, D), gain (D,) of the norm."""
    # The direction of a normalised token has 2-norm at most sqrt(D) before the gain.
    weight = math.sqrt(len(gain)) * weight * gain
    return Reach(weight.norm(dim=1), spectral(weight))


def attention_reach(block: Block, scale: Tensor, marks: Tensor | None = None) -> Reach:
    """Of scale * Wo concat_h(P_h Wv_h Norm(x)): every row of P_h is a convex combination.

    The heads may attend to different tokens. So their values add as if each head had picked its worst one:
    |concat| <= sqrt(sum_h |Wv_h|^2), which can exceed |Wv|.
    """
    attention = block.attention
    value = attention.qkv.weight.chunk(3)[2]
    gain = marked(block.norm_attention.weight, None if marks is None else marks[:, 0])
    heads = torch.tensor([linear_reach(part, gain).norm for part in value.chunk(attention.heads)]).to(value)
    out = scale[:, None] * attention.out.weight
    rows = sum_over_heads(out, heads)
    return Reach(rows, min(spectral(out) * float(heads.norm()), float(rows.norm())))


def sum_over_heads(out: Tensor, heads: Tensor) -> Tensor:
    """Channel bounds of `out` (O, D) applied to heads that reach `heads` (H,): sum_h |out_h| heads_h, (O,)."""
    return out.unflatten(1, (len(heads), -1)).norm(dim=2) @ heads


def mlp_reach(block: Block, scale: Tensor, marks: Tensor | None = None) -> Reach:
    """Of scale * W2 gelu(W1 (Norm(x) + shift)): GELU never enlarges a number."""
    hidden = linear_reach(
        block.mlp_in.weight, marked(block.norm_mlp.weight, None if marks is None else marks[:, 1])
    ).norm
    if marks is not None and len(marks):
        hidden += float((marks[:, 2] @ block.mlp_in.weight.mT).norm(dim=1).max())
    out = scale[:, None] * block.mlp_out.weight
    return Reach(out.norm(dim=1) * hidden, spectral(out) * hidden)


def contraction_reach(core: CertifiedCore, e: Reach) -> Reach:
    """Of L times the contractive layers, which begin with a norm of radius R: |x| <= R sqrt(D)."""
    width = len(e.channel)
    norm = core.radius * math.sqrt(width)
    reach = Reach(torch.full_like(e.channel, norm), norm)
    for routing, layer in core.stages:
        value, inner = layer.into.weight.split([width, layer.hidden])
        heads = torch.tensor([spectral(part) * reach.norm for part in value.chunk(layer.heads)]).to(e.channel)
        shift = mapped(routing.shift.weight, e).norm + float(routing.shift.bias.norm())
        hidden = spectral(inner) * reach.norm + shift
        out_value, out_hidden = layer.out.weight.split([width, layer.hidden], dim=1)
        rows = sum_over_heads(out_value, heads) + out_hidden.norm(dim=1) * hidden
        together = math.hypot(float(heads.norm()), hidden)
        reach = Reach(rows, min(spectral(layer.out.weight) * together, float(rows.norm())))
    return Reach(core.loop.lipschitz * reach.channel, core.loop.lipschitz * reach.norm)


def spectral(weight: Tensor) -> float:
    """Largest singular value of a matrix, exact up to rounding."""
    return float(torch.linalg.matrix_norm(weight, 2))

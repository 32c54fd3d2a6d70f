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
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class Boundedness:
    """Largest 2-norm of one token of (..., N, D), whatever is observed or done.

    Attributes:
        carried: of h_k, for every k.
        state: of the loop state h^(t), for every t; None for a stack, which has no loop.
        channel: largest magnitude of one number of h^(t); None for a stack.
        held: of the part of the update that no loop changes; None for a stack.
        branches: name -> of each branch of R, as it enters the state.
    """

    carried: float
    state: float | None = None
    channel: float | None = None
    held: float | None = None
    branches: dict[str, float] | None = None


@dataclass(frozen=True)
class Reach:
    """Bounds on a token: `channel` (D,) on the magnitude of each number, `norm` on the 2-norm."""

    channel: Tensor
    norm: float

    def __add__(self, other: Reach) -> Reach:
        return Reach(self.channel + other.channel, self.norm + other.norm)


def boundedness(model: WorldModel) -> Boundedness:
    """Claim B of a model's weights."""
    core = copy.deepcopy(model.core).double()
    with torch.no_grad():
        if not isinstance(core, LoopedCore):
            return Boundedness(float(normalised(core.prelude.norm).max()))
        carried = normalised(core.norm_out)
        held, branches = update_parts(core)
        state = loop_reach(core, sum(branches.values(), held), carried if core.loop.warm_start else 0 * carried)
    norms = {name: branch.norm for name, branch in branches.items()}
    return Boundedness(float(carried.max()), state.norm, float(state.channel.max()), held.norm, norms)


def normalised(norm: nn.RMSNorm) -> Tensor:
    """sqrt(D) |gain|, (D,): its largest entry bounds the token's 2-norm, each entry the magnitude of a channel."""
    return math.sqrt(len(norm.weight)) * norm.weight.abs()


def loop_reach(core: LoopedCore, driven: Reach, start: Tensor) -> Reach:
    """Where h^(t) can get from a start within `start` (D,), when all parts of an update reach `driven`."""
    abar, _ = core.retention.discretise()
    if core.loop.retention == "zoh":
        # h' = Abar h + (1 - Abar) G is a convex combination, channel by channel.
        channel = torch.maximum(start, driven.channel)
        return Reach(channel, float(channel.norm()))
    # h' = Abar h + (what drives it): a geometric series.
    channel = torch.maximum(start, driven.channel / (1 - abar))
    series = max(float(start.max()), driven.norm / (1 - float(abar.max())))
    return Reach(channel, min(series, float(channel.norm())))


def update_parts(core: LoopedCore) -> tuple[Reach, dict[str, Reach]]:
    """Held input and branches of one update, each multiplied by what the update multiplies it by."""
    if isinstance(core, CertifiedCore):
        return linear_reach(core.B.weight, core.prelude.norm.weight), {"contraction": contraction_reach(core)}
    _, gain = core.retention.discretise()
    euler = core.loop.retention == "euler"
    scale = torch.ones_like(gain) if euler else gain
    held = linear_reach((core.retention.delta if euler else gain)[:, None] * core.B.weight, core.prelude.norm.weight)
    branches: dict[str, Reach] = {}
    for index, block in enumerate(core.block.blocks):
        assert isinstance(block, Block)
        branches[f"block {index}, attention"] = attention_reach(block, scale)
        branches[f"block {index}, MLP"] = mlp_reach(block, scale)
    return held, branches


def linear_reach(weight: Tensor, gain: Tensor) -> Reach:
    """Of W Norm(x): weight (O, D), gain (D,) of the norm."""
    # The direction of a normalised token has 2-norm at most sqrt(D) before the gain.
    weight = math.sqrt(len(gain)) * weight * gain
    return Reach(weight.norm(dim=1), spectral(weight))


def attention_reach(block: Block, scale: Tensor) -> Reach:
    """Of scale * Wo concat_h(P_h Wv_h Norm(x)): every row of P_h is a convex combination.

    The heads may attend to different tokens. So their values add as if each head had picked its worst one:
    |concat| <= sqrt(sum_h |Wv_h|^2), which can exceed |Wv|.
    """
    attention = block.attention
    value, gain = attention.qkv.weight.chunk(3)[2], block.norm_attention.weight
    heads = torch.tensor([linear_reach(part, gain).norm for part in value.chunk(attention.heads)]).to(value)
    out = scale[:, None] * attention.out.weight
    rows = sum_over_heads(out, heads)
    return Reach(rows, min(spectral(out) * float(heads.norm()), float(rows.norm())))


def sum_over_heads(out: Tensor, heads: Tensor) -> Tensor:
    """Channel bounds of `out` (O, D) applied to heads that reach `heads` (H,): sum_h |out_h| heads_h, (O,)."""
    return out.unflatten(1, (len(heads), -1)).norm(dim=2) @ heads


def mlp_reach(block: Block, scale: Tensor) -> Reach:
    """Of scale * W2 gelu(W1 Norm(x)): GELU never enlarges a number."""
    hidden = linear_reach(block.mlp_in.weight, block.norm_mlp.weight).norm
    out = scale[:, None] * block.mlp_out.weight
    return Reach(out.norm(dim=1) * hidden, spectral(out) * hidden)


def contraction_reach(core: CertifiedCore) -> Reach:
    """Of L times the contractive layers, which begin with a norm of radius R: |x| <= R sqrt(D)."""
    gain = core.prelude.norm.weight
    norm = core.radius * math.sqrt(len(gain))
    reach = Reach(torch.full_like(gain, norm), norm)
    for routing, layer in core.stages:
        value, inner = layer.into.weight.split([len(gain), layer.hidden])
        heads = torch.tensor([spectral(part) * reach.norm for part in value.chunk(layer.heads)]).to(gain)
        shift = linear_reach(routing.shift.weight, gain).norm + float(routing.shift.bias.norm())
        hidden = spectral(inner) * reach.norm + shift
        out_value, out_hidden = layer.out.weight.split([len(gain), layer.hidden], dim=1)
        rows = sum_over_heads(out_value, heads) + out_hidden.norm(dim=1) * hidden
        together = math.hypot(float(heads.norm()), hidden)
        reach = Reach(rows, min(spectral(layer.out.weight) * together, float(rows.norm())))
    return Reach(core.loop.lipschitz * reach.channel, core.loop.lipschitz * reach.norm)


def spectral(weight: Tensor) -> float:
    """Largest singular value of a matrix, exact up to rounding."""
    return float(torch.linalg.matrix_norm(weight, 2))

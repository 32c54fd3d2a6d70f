"""Gates trained together with the core: three known ways, to be compared with a gate that is trained afterwards.

    ponder   sum_t p_t L^(t) + beta KL(p || prior), p the gate's law of halting
             PonderNet, arXiv 2107.05407, with a geometric prior; with a uniform one the first stage of Ouro,
             arXiv 2510.25741
    act      L(sum_t p_t h^(t)) + tau (loops + remainder), p the halting probabilities until they add up to one
             Adaptive Computation Time, arXiv 1603.08983
    eq11     L(h^(T)) - alpha sum_t H(g^(t)), arXiv 2606.18208, Eq. 11: no error reaches g, so its best choice is
             g = 1/2 for every row and loop, whatever the row needs. Kept to show just that

All of them keep the random depth of the core's training: T, drawn per sequence, is the last loop at which a row halts.
Every row is computed to the largest T of its batch, because the gate needs a state for every loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loopwm.data.windows import Windows
from loopwm.model.core import LoopedCore
from loopwm.model.world_model import WorldModel
from loopwm.train.config import HaltConfig, LossConfig
from loopwm.train.losses import LossTerms, shown, transition_errors

ENOUGH = 0.99
"""Halting probability after which ACT makes no further loop, 1 - epsilon of its source."""


@dataclass(frozen=True)
class Halted:
    """What one environment step of a batch hands to the loss, and to the next step.

    Attributes:
        states: (R, B, N, D) loop states that are decoded and scored.
        weights: (R, B) of their errors in a row's loss; they sum to 1.
        carried: (B, N, D) loop state that the next step begins with.
        cost: (B,) of halting as it did.
    """

    states: Tensor
    weights: Tensor
    carried: Tensor
    cost: Tensor


def halting_loss(
    model: WorldModel,
    windows: Windows,
    visible: Tensor,
    loops: Tensor,
    config: LossConfig,
    halt: HaltConfig,
    reward_std: float,
) -> LossTerms:
    """Eq. 10 with a gate in training.

    Args:
        visible: (B, K), which observations are shown.
        loops: (B,) T of every sequence.
        reward_std: as in `transition_errors`.
    """
    assert isinstance(model.core, LoopedCore) and model.gate is not None
    core, embeddings, loops = model.core, shown(model, windows, visible), loops.to(model.device)
    h, terms = model.initial(len(loops)), []
    for k in range(visible.shape[1]):
        u = model.encode_action(windows.actions[:, k])
        path, e = core.path(h, embeddings[:, k], u, int(loops.max()))
        halted = halt_rows(halt, path[1:], model.judge(path, e)[0].sigmoid(), loops)
        latents = core.finish(halted.states.flatten(0, 1)).unflatten(0, halted.weights.shape)
        truth = windows.observations[:, k + 1], windows.rewards[:, k], windows.continues[:, k]
        # Numbers are compared in full precision, as everywhere.
        with torch.autocast(latents.device.type, enabled=False):
            errors = transition_errors(model, latents.float(), *truth, reward_std)
        terms.append([weighted(error, halted.weights) for error in errors] + [halted.cost.mean()])
        h = core.finish(halted.carried)
    observation, reward, continues, halting = (torch.stack(part).mean() for part in zip(*terms, strict=True))
    total = observation + config.reward * reward + config.continues * continues + halt.weight * halting
    return LossTerms(total, observation, reward, continues, {"halting": halting})


def weighted(error: Tensor, weights: Tensor) -> Tensor:
    """Errors (R, B, ...), averaged over all but R, with R weighted by (R, B)."""
    per_row = error.flatten(2).mean(2) if error.ndim > 2 else error
    return (weights * per_row).sum(0).mean()


def halt_rows(halt: HaltConfig, states: Tensor, go_on: Tensor, loops: Tensor) -> Halted:
    """One environment step under `halt.mode`.

    Args:
        states: (T, B, N, D), h^(1) .. h^(T) of the deepest row.
        go_on: (T, B), 1 - the gate's probability of halting.
        loops: (B,) T of every row.
    """
    final = states[loops - 1, torch.arange(len(loops), device=loops.device)]
    if halt.mode == "ponder":
        p = halting_law(go_on, loops)
        return Halted(states, p, final, divergence(p, geometric_prior(halt.prior, loops, len(p))))
    if halt.mode == "act":
        p, cost = act_shares(go_on, loops)
        mixed = (p[..., None, None] * states).sum(0)
        return Halted(mixed[None], torch.ones_like(p[:1]), mixed, cost)
    made = torch.arange(len(go_on), device=loops.device)[:, None] < loops
    entropy = torch.special.entr(go_on) + torch.special.entr(1 - go_on)
    return Halted(final[None], torch.ones_like(go_on[:1]), final, -(entropy * made).sum(0))


def halting_law(go_on: Tensor, loops: Tensor) -> Tensor:
    """p_t = lambda_t prod_{s<t} (1 - lambda_s), lambda = 1 - go_on, all that is left at t = T: (T, B) -> (T, B)."""
    t = torch.arange(1, len(go_on) + 1, device=go_on.device)[:, None]
    go_on = torch.where(t < loops, go_on, 0.0)
    reached = torch.cat([torch.ones_like(go_on[:1]), go_on[:-1]]).cumprod(0)
    return reached * (1 - go_on)


def geometric_prior(rate: float, loops: Tensor, depth: int) -> Tensor:
    """Halting with probability `rate` at every loop, given that it happens within T: (depth, B)."""
    t = torch.arange(depth, device=loops.device)[:, None]
    prior = torch.where(t < loops, (1 - rate) ** t.float(), 0.0)
    return prior / prior.sum(0)


def divergence(p: Tensor, prior: Tensor) -> Tensor:
    """KL(p || prior) of each row, both (T, B) -> (B,)."""
    # xlogy is 0 where p is, whatever the prior says there.
    return (torch.xlogy(p, p.clamp(min=1e-12)) - torch.xlogy(p, prior.clamp(min=1e-12))).sum(0)


def act_shares(go_on: Tensor, loops: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the loops in ACT's read-out (T, B), and its ponder cost, loops made plus remainder (B,).

    Only the remainder carries a gradient: the number of loops is a step function of the gate.
    """
    t = torch.arange(1, len(go_on) + 1, device=go_on.device)[:, None]
    halting = 1 - go_on
    spent = halting.cumsum(0)
    ends = (spent >= ENOUGH) | (t >= loops)
    last = ends.int().argmax(0) + 1
    before = torch.where(t < last, halting, 0.0)
    remainder = 1 - before.sum(0)
    return torch.where(t == last, remainder, before), last + remainder

"""Is the loop alive and well: does it settle, does it contract, do tokens collapse, do long rollouts stay bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loopwm.evaluate.rollout import one_step
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments
from loopwm.model.core import LoopedCore
from loopwm.model.heads import Prediction
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel

ROUNDING = 1e-6
"""Below this, the relative change of a float32 latent is mostly rounding."""


@dataclass(frozen=True)
class Settling:
    """Relative change of the latent per loop, |h^(t+1) - h^(t)| / |h^(t+1)|, t = 0..T-1.

    Attributes:
        low, median, high: 10%, 50% and 90% over transitions, one value per loop.
        rate: median factor from one loop to the next in the later half of the loops; below 1 means settling. Changes
            that are mere rounding are left out; NaN when there is nothing else.
        n: transitions.
    """

    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]
    rate: float
    n: int


def settling(model: WorldModel, segments: Segments, loops: int) -> Settling | None:
    """Residuals over `loops` loops of every observed step; None for a stack, which has no loop."""
    if not model.core.loopable:
        return None
    trace = Trace()
    one_step(model, segments, loops, batch=len(segments), trace=trace)
    residual = trace.residual.cpu().double().numpy()[:, segments.valid]
    low, median, high = np.quantile(residual, (0.1, 0.5, 0.9), axis=1)
    before, after = residual[loops // 2 : -1], residual[loops // 2 + 1 :]
    factors = after[after > ROUNDING] / before[after > ROUNDING]
    rate = float(np.median(factors)) if factors.size else float("nan")
    return Settling(tuple(low.tolist()), tuple(median.tolist()), tuple(high.tolist()), rate, residual.shape[1])


@dataclass(frozen=True)
class Spread:
    """10%, 50% and 90% over states, and the largest value."""

    low: float
    median: float
    high: float
    largest: float

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Of one value per state, (n,)."""
        array = values.cpu().double().numpy()
        return cls(*(float(value) for value in np.quantile(array, (0.1, 0.5, 0.9, 1.0))))


@dataclass(frozen=True)
class Contraction:
    """The Jacobian of one loop in h at h^(T), of test states.

    Power iteration approaches the norm from below, and no state says anything about another: this is measured where it
    was measured, and a proof of nothing.

    Attributes:
        norm: spectral norm, the largest factor by which one loop stretches a small difference of the latent.
        radius: spectral radius, the factor per loop by which a small difference fades, or grows, in the long run. A
            latent that has settled attracts its neighbours where this is below 1, even if the norm is above 1.
        expanding: states with a radius of 1 or more.
        loops: T. n: states.
    """

    norm: Spread
    radius: Spread
    expanding: int
    loops: int
    n: int


def contraction(
    model: WorldModel, segments: Segments, loops: int, *, states: int = 64, iterations: int = 100, seed: int = 0
) -> Contraction | None:
    """Contraction of one whole update after `loops` loops, at `states` observed steps; None for a stack."""
    core = model.core
    if not isinstance(core, LoopedCore):
        return None
    # No inference mode: what is made in it can never be differentiated.
    with torch.no_grad():
        h, e = settled_states(model, core, segments, loops, states, seed)
        held, phase = core.held_input(e), core.phases(torch.tensor([loops]))
    draws = torch.Generator().manual_seed(seed)
    norm, radius = jacobian_gains(lambda x: core.update(x, e, held, phase), h, draws, iterations)
    return Contraction(Spread.of(norm), Spread.of(radius), int((radius >= 1).sum()), loops, len(h))


def settled_states(
    model: WorldModel, core: LoopedCore, segments: Segments, loops: int, states: int, seed: int
) -> tuple[Tensor, Tensor]:
    """h^(T) and e, each (n, N, D), of at most `states` steps, drawn evenly from the valid ones of `segments`."""
    observations, actions = (
        torch.as_tensor(array, device=model.device) for array in (segments.observations[:, :-1], segments.actions)
    )
    carried = model.observe(observations, actions)
    before = torch.cat([model.initial(len(segments))[:, None], carried[:, :-1]], dim=1)
    real = np.flatnonzero(segments.valid)
    chosen = np.sort(np.random.default_rng(seed).choice(real, min(states, len(real)), replace=False))
    rows = torch.as_tensor(chosen, device=model.device)
    h, observation, action = (tensor.flatten(0, 1)[rows] for tensor in (before, observations, actions))
    e = core.prelude(h, model.encode(observation), model.encode_action(action))
    return core.refine(core.start(h, e), e, torch.full((len(e),), loops)), e


def jacobian_gains(
    update: Callable[[Tensor], Tensor], h: Tensor, draws: torch.Generator, iterations: int
) -> tuple[Tensor, Tensor]:
    """Spectral norm and radius (n,) of J = d update / d h at every h (n, N, D), by power iteration, never forming J.

    The norm iterates v -> J^T J v. The radius iterates v -> J v and takes the mean growth of the later half, because a
    pair of complex eigenvalues turns v for ever.
    """
    x = h.detach().requires_grad_()
    u = torch.zeros_like(x, requires_grad=True)
    with torch.enable_grad():
        y = update(x)
        # J^T u is linear in u, and its derivative in u, applied to v, is J v.
        (pulled,) = torch.autograd.grad(y, x, u, create_graph=True)

    def push(v: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, u, v, retain_graph=True)[0]

    def pull(v: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, v, retain_graph=True)[0]

    start = torch.randn(h.shape, generator=draws).to(h)
    v, _ = normalised(start)
    norm = v.new_zeros(len(h))
    for _ in range(iterations // 2):
        pushed, norm = normalised(push(v))
        v, _ = normalised(pull(pushed))
    v, growth = start, []
    for _ in range(iterations):
        v, gain = normalised(push(v))
        growth.append(gain.log())
    radius = torch.stack(growth[iterations // 2 :]).mean(0).exp()
    return norm, radius


def normalised(v: Tensor) -> tuple[Tensor, Tensor]:
    """v (n, N, D) scaled to length 1 per row, and the lengths (n,) it had."""
    length = v.flatten(1).norm(dim=1)
    return v / length.clamp(min=torch.finfo(v.dtype).tiny)[:, None, None], length


@dataclass(frozen=True)
class RetentionSpread:
    """Abar over the channels: how much of the latent survives one loop."""

    low: float
    mean: float
    high: float


def retention_spread(model: WorldModel) -> RetentionSpread | None:
    """Minimum, mean and maximum of Abar (D,); None for a stack."""
    if not isinstance(model.core, LoopedCore):
        return None
    with torch.inference_mode():
        abar, _ = model.core.retention.discretise()
    return RetentionSpread(float(abar.min()), float(abar.mean()), float(abar.max()))


@dataclass(frozen=True)
class TokenHealth:
    """Whether the N latent tokens still say different things.

    Attributes:
        tokens: N.
        correlation: mean cosine between two different tokens of a latent; 1 means they have collapsed onto one.
        effective_rank: exp of the entropy of the normalised singular values of a latent (N, D); between 1 and N.
        n: latents.
    """

    tokens: int
    correlation: float
    effective_rank: float
    n: int


def token_health(model: WorldModel, segments: Segments) -> TokenHealth:
    """Token correlation and effective rank of the carried latents while observing."""
    with torch.inference_mode():
        observations, actions = (
            torch.as_tensor(array, device=model.device) for array in (segments.observations[:, :-1], segments.actions)
        )
        # Not every accelerator knows double precision; the processor does.
        h = model.observe(observations, actions)[torch.as_tensor(segments.valid, device=model.device)].cpu()
        return TokenHealth(h.shape[1], float(token_correlation(h)), float(effective_rank(h)), len(h))


def token_correlation(h: Tensor) -> Tensor:
    """Mean cosine between different tokens of latents (n, N, D), a scalar; NaN for a single token."""
    unit = torch.nn.functional.normalize(h.double(), dim=-1)
    tokens = h.shape[1]
    cosine = (unit @ unit.transpose(-1, -2)).sum((-1, -2)) - tokens
    return (cosine / (tokens * (tokens - 1))).mean() if tokens > 1 else cosine.new_tensor(torch.nan)


def effective_rank(h: Tensor) -> Tensor:
    """Mean over latents (n, N, D) of exp(entropy of the singular values' shares), a scalar in [1, min(N, D)]."""
    values = torch.linalg.svdvals(h.double())
    share = values / values.sum(-1, keepdim=True).clamp(min=1e-30)
    return torch.special.entr(share).sum(-1).exp().mean()


@dataclass(frozen=True)
class Stability:
    """A very long imagined rollout under recorded actions in random order.

    Attributes:
        steps, rollouts: length and number of rollouts.
        every: steps between two entries of the curves.
        norm_low, norm_high: smallest and largest root mean square of the latent, per stretch of `every` steps.
        reach: largest decoded feature in training standard deviations, per stretch.
        recorded_reach: the largest one that occurs in the recordings evaluated on.
        nonfinite: latent or decoded numbers that are NaN or infinite.
    """

    steps: int
    rollouts: int
    every: int
    norm_low: tuple[float, ...]
    norm_high: tuple[float, ...]
    reach: tuple[float, ...]
    recorded_reach: float
    nonfinite: int


def stability(model: WorldModel, segments: Segments, *, steps: int, rollouts: int = 2, seed: int = 0) -> Stability:
    """Imagine `steps` steps from recorded observations, long after anything the model was trained for.

    A bounded norm is enforced by the normalisation of the carried latent; what could still go wrong is a number that is
    not finite, or a decoded observation (`reach`) that no recording ever showed.
    """
    scorer, every = Scorer.of(model), max(1, steps // 100)
    low, high, reach, nonfinite = [], [], [], 0
    for latents, prediction in stretches(model, segments, steps, rollouts, every, seed):
        norm = latents.cpu().double().square().mean((-1, -2)).sqrt()
        decoded = np.abs(scorer.normalise(prediction.observation.cpu().numpy()))[..., scorer.changing]
        nonfinite += not_finite(latents, prediction)
        low.append(float(norm.min()))
        high.append(float(norm.max()))
        reach.append(float(decoded.max()))
    recorded = scorer.reach(segments.observations)
    return Stability(steps, rollouts, every, tuple(low), tuple(high), tuple(reach), recorded, nonfinite)


def stretches(
    model: WorldModel, segments: Segments, steps: int, rollouts: int, every: int, seed: int
) -> Iterator[tuple[Tensor, Prediction]]:
    """A very long imagined rollout in stretches of `every` steps: latents (rollouts, every, N, D) and their decoding.

    It starts at the opening observations of segments drawn at random, and goes on under recorded actions in random
    order.
    """
    rng, pool = np.random.default_rng(seed), segments.actions[segments.valid]
    start = torch.as_tensor(
        segments.observations[rng.choice(len(segments), rollouts, replace=len(segments) < rollouts), segments.warmup],
        device=model.device,
    )
    h: Tensor | None = None
    for first in range(0, steps, every):
        length = min(every, steps - first)
        actions = torch.as_tensor(pool[rng.integers(len(pool), size=(rollouts, length))], device=model.device)
        with torch.inference_mode():
            latents = model.imagine(actions, observation=start if h is None else None, h=h)
            prediction = model.decode(latents)
        h = latents[:, -1]
        yield latents, prediction


def not_finite(latents: Tensor, prediction: Prediction) -> int:
    """Latent and decoded numbers that are NaN or infinite."""
    numbers = (latents, prediction.observation, prediction.reward, prediction.continue_logit)
    return sum(int((~number.isfinite()).sum()) for number in numbers)

"""Largest Lyapunov exponents: how fast small differences grow, in a model's imagination and in the engine it imitates.

Benettin's method: a small difference is carried along with the trajectory and brought back to length 1 at every step;
the mean logarithm of what it had grown by is the exponent, per environment step. In the long run it is the same in
every norm, so latents (2-norm) and engine states (2-norm, in standard deviations) can be compared.

Source: Benettin, Galgani, Giorgilli and Strelcyn, Meccanica 15, 1980.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, cast, runtime_checkable

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loopwm.data.cache import Columns
from loopwm.envs.registry import find_world, world_names
from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.config import LyapunovConfig
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments, rollouts
from loopwm.model.world_model import WorldModel

Advance = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
"""(k, states (n, ...), tangents (n, ...) of length 1) -> states after step k, what the tangents became, and which of
them (n,) bool mean nothing; None for none."""


@dataclass(frozen=True)
class Exponent:
    """A largest Lyapunov exponent, per environment step, natural logarithm.

    Attributes:
        value: mean over starts of each start's mean growth; the interval resamples the starts.
        curve: (burn_in + steps,) mean growth in each step, which shows whether it has become stationary.
        steps, burn_in: counted and left out. starts: trajectories.
        torn: counted steps that are left out of all means, because a trajectory and its twin met different contacts.
    """

    value: Interval
    curve: tuple[float, ...]
    steps: int
    burn_in: int
    starts: int
    torn: int


@dataclass(frozen=True)
class LyapunovResult:
    """Of a model's imagination and of its world.

    Attributes:
        model: the carried latent under imagination at the default T, in double precision.
        guided: the same blind steps, each taken at a latent that the model has while observing recorded episodes. An
            imagination that has drifted to a standstill is not chaotic; this says whether the model is, where the world
            is. None where no episode is longer than the burn-in.
        engine: the world's own, under the same actions from the same observations; None where no engine is known that
            can be put into a given state.
        epsilon: distance of the engine's twin, in standard deviations.
    """

    model: Exponent
    guided: Exponent | None
    engine: Exponent | None
    epsilon: float


@runtime_checkable
class Restorable(Protocol):
    """An engine that can be put into a state: all it needs to have a twin."""

    def state(self) -> np.ndarray:
        """The observation in double precision."""
        ...

    def set_state(self, observation: np.ndarray) -> None:
        """Show this observation, and go on from it."""
        ...


def lyapunov(
    model: WorldModel, data: Columns, episodes: npt.NDArray[np.integer], config: LyapunovConfig | None = None
) -> LyapunovResult:
    """Exponents of a model and of the engine behind its recording, from the same starts under the same actions.

    An episode of the engine goes on where the task would have ended it (a disc in a pocket): the end is the task's, and
    the physics knows nothing of it.

    Args:
        data: a recording; `episodes` of it (indices) give observations to start from and actions, in random order.
    """
    config = config or LyapunovConfig()
    rng = np.random.default_rng(config.seed)
    starts = rollouts(data, rng.permutation(episodes)[: config.starts], 1, stride=int(data.ep_len.max()))
    actions = drawn_actions(data, episodes, len(starts), config, rng)
    of_engine = None
    # An engine cannot be put into the state that an image shows.
    if data.meta.world in world_names() and data.meta.observation.kind != "image":
        env = find_world(data.meta.world).make(0).unwrapped
        if isinstance(env, Restorable):
            of_engine = engine_exponent(env, Scorer.of(model), starts.observations[:, 0], actions, config)
    return LyapunovResult(
        model=model_exponent(model, starts, actions, config),
        guided=guided_exponent(model, data, rng.permutation(episodes), config),
        engine=of_engine,
        epsilon=config.epsilon,
    )


def drawn_actions(
    data: Columns, episodes: npt.NDArray[np.integer], starts: int, config: LyapunovConfig, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Recorded actions in random order, (starts, 1 + burn_in + steps, A); the leading one is the opening step's."""
    pool: Segments = rollouts(data, episodes, int(data.ep_len.max()), stride=int(data.ep_len.max()))
    recorded = pool.actions[pool.valid]
    return recorded[rng.integers(len(recorded), size=(starts, 1 + config.burn_in + config.steps))]


def model_exponent(
    model: WorldModel, starts: Segments, actions: npt.NDArray[np.floating], config: LyapunovConfig
) -> Exponent:
    """Of the imagined latent h_k (n, N, D): the opening step sees o_0, all others are blind.

    The tangent is exact, the Jacobian of `WorldModel.step` at T = mu applied to it.
    """
    model = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
    taken = torch.as_tensor(actions, dtype=torch.float64)
    seen = torch.as_tensor(starts.observations[:, 0], dtype=torch.float64)
    with torch.no_grad():
        h = model.step(model.initial(len(seen)), taken[:, 0], model.encode(seen))
        return exponent(tangent(lambda k, h: model.step(h, taken[:, 1 + k])), h, config)


def guided_exponent(
    model: WorldModel, data: Columns, episodes: npt.NDArray[np.integer], config: LyapunovConfig
) -> Exponent | None:
    """Of blind steps at the latents (n, N, D) met while observing, as many steps as the longest episode has.

    None where that leaves nothing after the burn-in.
    """
    longest = int(data.ep_len[episodes].max())
    steps = min(config.steps, longest - 1 - config.burn_in)
    if steps < 1:
        return None
    length = 1 + config.burn_in + steps
    enough = episodes[data.ep_len[episodes] >= length][: config.starts]
    segments = rollouts(data, enough, length, stride=longest)
    model = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
    observations, actions = (
        torch.as_tensor(array, dtype=torch.float64) for array in (segments.observations[:, :-1], segments.actions)
    )
    with torch.no_grad():
        latents = model.observe(observations, actions)
    blind = tangent(lambda k, h: model.step(h, actions[:, 1 + k]))

    def advance(k: int, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, None]:
        _, image, _ = blind(k, x, v)
        return latents[:, 1 + k], image, None

    return exponent(advance, latents[:, 0], replace(config, steps=steps))


def engine_exponent(
    env: Restorable,
    scorer: Scorer,
    observations: npt.NDArray[np.floating],
    actions: npt.NDArray[np.floating],
    config: LyapunovConfig,
) -> Exponent:
    """Of an engine's own state, from observations (n, *S) under actions (n, 1 + burn_in + steps, A).

    Trajectory and twin are put into the engine anew at every step, so both are treated alike. Only features that change
    are perturbed. A step in which the two have another number of contacts is torn: the difference then is one between
    two histories, and no derivative.
    """
    assert isinstance(env, gymnasium.Env)
    engine = cast("gymnasium.Env", env)
    template, changing = observations[0].astype(np.float64), np.broadcast_to(scorer.changing, observations.shape[1:])
    scale = np.broadcast_to(scorer.std, template.shape)[changing]
    constant = [observation[~changing].astype(np.float64) for observation in observations]

    def stepped(row: int, x: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float]:
        observation = np.empty_like(template)
        observation[changing], observation[~changing] = x * scale, constant[row]
        env.set_state(observation)
        _, _, _, _, info = engine.step(action)
        return env.state()[changing] / scale, float(info.get("contacts", 0))

    def advance(k: int, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after, image, torn = torch.empty_like(x), torch.empty_like(v), torch.zeros(len(x), dtype=torch.bool)
        for row in range(len(x)):
            here, there = (y.numpy() for y in (x[row], x[row] + config.epsilon * v[row]))
            (here, met), (there, met_there) = (stepped(row, y, actions[row, 1 + k]) for y in (here, there))
            after[row], image[row] = torch.as_tensor(here), torch.as_tensor((there - here) / config.epsilon)
            torn[row] = met != met_there
        return after, image, torn

    opened = [
        stepped(row, observation[changing].astype(np.float64) / scale, actions[row, 0])[0]
        for row, observation in enumerate(observations)
    ]
    return exponent(advance, torch.as_tensor(np.stack(opened)), config)


def tangent(step: Callable[[int, Tensor], Tensor]) -> Advance:
    """The exact linearisation of a differentiable map (k, states) -> states."""

    def advance(k: int, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, None]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            after = step(k, x)
            u = torch.zeros_like(after, requires_grad=True)
            # J^T u is linear in u, and its derivative in u, applied to v, is J v.
            (pulled,) = torch.autograd.grad(after, x, u, create_graph=True)
            (image,) = torch.autograd.grad(pulled, u, v)
        return after.detach(), image, None

    return advance


def exponent(advance: Advance, states: Tensor, config: LyapunovConfig) -> Exponent:
    """Benettin's method from `states` (n, ...), float64."""
    draws = torch.Generator().manual_seed(config.seed)
    x, v = states, _unit(torch.randn(states.shape, generator=draws, dtype=states.dtype))[0]
    growth = []
    for k in range(config.burn_in + config.steps):
        x, image, torn = advance(k, x, v)
        v, length = _unit(image)
        grown = length.log()
        growth.append(grown if torn is None else grown.where(~torn, torch.nan))
    table = torch.stack(growth).cpu().numpy()  # (burn_in + steps, n)
    counted = table[config.burn_in :]
    kept = ~np.isnan(counted)
    with np.errstate(invalid="ignore"):
        per_start = np.nansum(counted, axis=0) / kept.sum(0)
        curve = np.nansum(table, axis=1) / (~np.isnan(table)).sum(1)
    return Exponent(
        value=Bootstrap(np.arange(len(per_start)), seed=config.seed).mean(per_start),
        curve=tuple(curve.tolist()),
        steps=config.steps,
        burn_in=config.burn_in,
        starts=len(per_start),
        torn=int((~kept).sum()),
    )


def _unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """v (n, ...) scaled to length 1 per row, and the lengths (n,)."""
    length = v.flatten(1).norm(dim=1).clamp(min=torch.finfo(v.dtype).tiny)
    return v / length.view(-1, *[1] * (v.ndim - 1)), length

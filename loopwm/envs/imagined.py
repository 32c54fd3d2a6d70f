"""A trained model as a Gymnasium environment: what it imagines is what happens.

`WorldModelEnv.from_run("runs/looped")` is one world, `WorldModelVectorEnv` many that are imagined together. Time is
that of docs/time.md: `step(a_k)` gives o_{k+1}, r_k and whether the episode goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from loopwm.data.cache import open_memmap
from loopwm.data.split import Split
from loopwm.data.store import Store
from loopwm.data.windows import gather
from loopwm.errors import UserError
from loopwm.model.config import ExitConfig
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ActionSpec
from loopwm.train.checkpoint import load
from loopwm.train.journal import read_config

ROUNDING = 1e-5
"""By which part of a bound an action may be beyond it, as the end of a float32 computation can be."""


@dataclass(frozen=True)
class ImaginedConfig:
    """How episodes are imagined."""

    num_loops: int | None = None
    """T of every step; mu when left out."""
    exit: ExitConfig | None = None
    """Lets a step take fewer loops."""
    end_below: float = 0.5
    """An episode terminates at the step after which it goes on with a probability below this; 0 never ends one."""
    max_steps: int = 0
    """Steps after which it is truncated; 0 for never."""

    def __post_init__(self) -> None:
        if not 0 <= self.end_below <= 1:
            raise UserError(f"end_below is a probability, got {self.end_below}; give a number from 0 to 1.")
        if self.max_steps < 0:
            raise UserError(f"max_steps must not be negative, got {self.max_steps}.")
        if self.num_loops is not None and self.num_loops < 1:
            raise UserError(f"num_loops must be at least 1, got {self.num_loops}.")


@dataclass(frozen=True)
class Starts:
    """Recorded moments that imagined episodes begin at.

    Attributes:
        observations: (R, W+1, *S), as recorded; the last is where an episode begins, the W before it are filtered.
        actions: (R, W, A) float32.
    """

    observations: np.ndarray
    actions: np.ndarray

    @classmethod
    def of_run(
        cls, run: Path | str, data: Path | str | None = None, split: Split = "train", warmup: int | None = None
    ) -> Starts:
        """As `of`, in `data`, or in what `run` was trained on."""
        return cls.of(read_config(Path(run) / "config.yaml").data if data is None else data, split, warmup)

    @classmethod
    def of(cls, data: Path | str, split: Split = "train", warmup: int | None = None) -> Starts:
        """The beginnings of the recorded episodes of `split`, each after `warmup` observed transitions: none unless
        said, and three where observations are images, as a single one does not show speeds.

        Raises:
            UserError: the recording cannot be read, or no episode of the split has `warmup` transitions.
        """
        if warmup is not None and warmup < 0:
            raise UserError(f"warmup must not be negative, got {warmup}.")
        with Store.open(data) as store:
            columns, episodes = open_memmap(store), store.split(split)
            warmup = store.meta.observation.warmup if warmup is None else warmup
        episodes = episodes[columns.ep_len[episodes] >= max(warmup, 1)]
        if not len(episodes):
            raise UserError(
                f"No {split} episode of {data} has {max(warmup, 1)} transitions, so there is nowhere to begin; record "
                "more, or give a shorter warmup."
            )
        windows = gather(columns, episodes, np.zeros_like(episodes), max(warmup, 1))
        return cls(windows.observations[:, : warmup + 1].numpy(), windows.actions[:, :warmup].numpy())

    def __post_init__(self) -> None:
        if self.observations.ndim < 3 or self.observations.shape[:2] != (
            len(self.actions),
            self.actions.shape[1] + 1,
        ):
            raise UserError(
                "Starts need observations (R, W+1, *S) and actions (R, W, A), got shapes "
                f"{self.observations.shape} and {self.actions.shape}."
            )

    def __len__(self) -> int:
        return len(self.observations)


class Dream:
    """B imagined episodes side by side: the latent each carries, and what it last saw.

    Attributes:
        h: (B, N, D). embedding: (B, N, D) of the observation in view; only the step after a beginning has one.
        seen: (B,) whether a row's embedding is still in view.
    """

    def __init__(self, model: WorldModel, starts: Starts, config: ImaginedConfig, batch: int) -> None:
        self.model, self.starts, self.config = model, starts, config
        self.h = model.initial(batch)
        self.embedding = torch.zeros_like(self.h)
        self.seen = np.zeros(batch, dtype=bool)

    @torch.no_grad()
    def begin(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Put `rows` (R,) at the recorded moments `at` (R,); returns their observations (R, *S)."""
        seen = torch.from_numpy(self.starts.observations[at]).to(self.model.device)
        acted = torch.from_numpy(self.starts.actions[at]).to(self.model.device)
        past = self.model.observe(seen[:, :-1], acted)[:, -1] if acted.shape[1] else self.model.initial(len(at))
        return self.place(rows, seen[:, -1], past)

    @torch.no_grad()
    def place(self, rows: np.ndarray, observation: Tensor, past: Tensor) -> np.ndarray:
        """Put `rows` where `observation` (R, *S) is in view and `past` (R, N, D) is remembered."""
        self.h[rows], self.embedding[rows] = past, self.model.encode(observation)
        self.seen[rows] = True
        return self.model.observation.recorded(observation.cpu().numpy())

    @torch.no_grad()
    def advance(self, actions: np.ndarray) -> Imagined:
        """One step of every row under `actions` (B, A)."""
        action, trace = torch.as_tensor(actions, dtype=torch.float32, device=self.model.device), Trace(residuals=False)
        options = {"num_loops": self.config.num_loops, "exit": self.config.exit, "trace": trace}
        if self.seen.all() or not self.seen.any():
            self.h = self.model.step(self.h, action, self.embedding if self.seen.all() else None, **options)
            loops = trace.loops[:, 0]
        else:
            # With and without an observation are two different maps, so rows that have just begun go apart.
            # Where traces are: on the CPU.
            loops = torch.zeros(len(self.h), dtype=torch.long)
            for rows, embedding in ((self.seen, self.embedding[self.seen]), (~self.seen, None)):
                trace.steps.clear()
                self.h[rows] = self.model.step(self.h[rows], action[rows], embedding, **options)
                loops[rows] = trace.loops[:, 0]
        self.seen[:] = False
        out = self.model.decode(self.h)
        observation = self.model.observation.recorded(out.observation.cpu().numpy())
        return Imagined(observation, *(part.cpu().numpy() for part in (out.reward, out.continue_probability, loops)))


@dataclass(frozen=True)
class Imagined:
    """One step: observation (B, *S), reward (B,), probability of going on (B,), loops used (B,)."""

    observation: np.ndarray
    reward: np.ndarray
    going_on: np.ndarray
    loops: np.ndarray


class WorldModelEnv(gymnasium.Env[np.ndarray, Any]):
    """One imagined world with Gymnasium's `reset` and `step`.

    `reset(options={"observation": o})` begins at an observation (*S) of your own instead of a recorded one. `info` has
    `loops`, the loops that the step used, and `continue_probability`.

    Args:
        model: from `loopwm.load`.
        starts: where episodes begin, drawn by the seed that `reset` is given.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, model: WorldModel, starts: Starts, config: ImaginedConfig | None = None) -> None:
        self.config = config or ImaginedConfig()
        self.observation_space = model.observation.to_gymnasium()
        self.action_space = model.action.to_gymnasium()
        self._dream = Dream(model, starts, self.config, 1)
        self._taken = -1

    @classmethod
    def from_run(
        cls,
        run: Path | str,
        data: Path | str | None = None,
        split: Split = "train",
        warmup: int | None = None,
        device: str = "cpu",
        **settings: Any,
    ) -> WorldModelEnv:
        """The world that a training run has learned.

        Args:
            run: its folder.
            data: recording whose episodes' beginnings are used; the one it was trained on when left out.
            split, warmup: as of `Starts.of`.
            settings: fields of `ImaginedConfig`.
        """
        return cls(load(run, device=device), Starts.of_run(run, data, split, warmup), configured(settings))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A recorded beginning, or the one in `options`.

        Raises:
            UserError: an option that is not known, or an observation of another shape.
        """
        super().reset(seed=seed)
        self._taken = 0
        dream, row = self._dream, np.zeros(1, dtype=np.int64)
        given = given_observation(options, dream.model)
        if given is not None:
            return dream.place(row, given[None], dream.model.initial(1))[0], {}
        return dream.begin(row, self.np_random.integers(len(dream.starts), size=1))[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """(o_{k+1}, r_k, terminated, truncated, info) after a_k.

        Raises:
            UserError: `reset` was never called, or the action is not from the action space.
        """
        if self._taken < 0:
            raise UserError("This environment has to be reset before its first step; call reset().")
        spec = self._dream.model.action
        row = checked_actions(np.reshape(action, (1, -1)), spec)
        out = self._dream.advance(row)
        self._taken += 1
        truncated = self.config.max_steps > 0 and self._taken >= self.config.max_steps
        info = {"loops": int(out.loops[0]), "continue_probability": float(out.going_on[0])}
        return (
            out.observation[0],
            float(out.reward[0]),
            bool(out.going_on[0] < self.config.end_below),
            truncated,
            info,
        )


class WorldModelVectorEnv(VectorEnv):
    """Many imagined worlds, computed together: what Gymnasium's vector environments are, without a process for each.

    A world that has ended is reset by the step after (Gymnasium's NEXT_STEP); that step's action is ignored, its reward
    is 0 and its `loops` are 0.

    Args:
        model, starts, config: as of `WorldModelEnv`.
        num_envs: B.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, model: WorldModel, starts: Starts, num_envs: int, config: ImaginedConfig | None = None) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs must be at least 1, got {num_envs}.")
        self.config, self.num_envs = config or ImaginedConfig(), num_envs
        self.single_observation_space = model.observation.to_gymnasium()
        self.single_action_space = model.action.to_gymnasium()
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self._dream = Dream(model, starts, self.config, num_envs)
        self._taken = np.full(num_envs, -1)
        self._over = np.zeros(num_envs, dtype=bool)

    @classmethod
    def from_run(
        cls,
        run: Path | str,
        num_envs: int,
        data: Path | str | None = None,
        split: Split = "train",
        warmup: int | None = None,
        device: str = "cpu",
        **settings: Any,
    ) -> WorldModelVectorEnv:
        """As of one world."""
        return cls(load(run, device=device), Starts.of_run(run, data, split, warmup), num_envs, configured(settings))

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """All worlds at recorded beginnings. One seed determines them all.

        Raises:
            UserError: seeds of single worlds, or any option.
        """
        if isinstance(seed, list):
            raise UserError("Worlds that are imagined together share one random stream; give reset one seed.")
        if options:
            raise UserError(f"Unknown option of reset: {', '.join(options)}; there are none for many worlds.")
        super().reset(seed=seed)
        self._taken[:], self._over[:] = 0, False
        rows = np.arange(self.num_envs)
        return self._dream.begin(rows, self.np_random.integers(len(self._dream.starts), size=len(rows))), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As of one world, with a leading axis B.

        Raises:
            UserError: `reset` was never called, or the actions are not one for each world, from the action space.
        """
        if self._taken[0] < 0:
            raise UserError("These environments have to be reset before their first step; call reset().")
        spec = self._dream.model.action
        if len(np.atleast_1d(actions)) != self.num_envs:
            raise UserError(f"Give an action for each of {self.num_envs} worlds, got {len(np.atleast_1d(actions))}.")
        rows = np.reshape(actions, (self.num_envs, -1))
        out = self._dream.advance(checked_actions(rows, spec))
        self._taken += 1
        observation, again = out.observation.copy(), np.flatnonzero(self._over)
        reward = np.where(self._over, 0.0, out.reward)
        terminated = (out.going_on < self.config.end_below) & ~self._over
        truncated = (self._taken >= (self.config.max_steps or math.inf)) & ~self._over
        info = {
            "loops": np.where(self._over, 0, out.loops),
            "continue_probability": np.where(self._over, 1.0, out.going_on),
        }
        if len(again):
            observation[again] = self._dream.begin(
                again, self.np_random.integers(len(self._dream.starts), size=len(again))
            )
            self._taken[again] = 0
        self._over = terminated | truncated
        return observation, reward, terminated, truncated, info


def given_observation(options: dict[str, Any] | None, model: WorldModel) -> Tensor | None:
    """The observation (*S) among the options of `reset`.

    Raises:
        UserError: another option, or an observation that is not finite or has another shape.
    """
    options = options or {}
    unknown = sorted(options.keys() - {"observation"})
    if unknown:
        raise UserError(f"Unknown option of reset: {', '.join(unknown)}; there is one, 'observation'.")
    if "observation" not in options:
        return None
    observation = torch.as_tensor(options["observation"], dtype=torch.float32, device=model.device)
    if observation.shape != model.observation.shape or not observation.isfinite().all():
        raise UserError(
            f"reset needs a finite observation of shape {model.observation.shape}, got shape "
            f"{tuple(observation.shape)}{'' if observation.isfinite().all() else ' with NaN or infinity'}."
        )
    return observation


def checked_actions(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """`actions` (B, A) as the model stores them.

    Raises:
        UserError: another number of columns, numbers not finite or out of bounds, or choices that do not exist.
    """
    actions, size, choices = np.asarray(actions, dtype=np.float32), spec.stored_size, spec.choices
    if actions.shape[1] != size or not np.isfinite(actions).all():
        raise UserError(f"An action of this world is {size} finite number(s), got {actions[0].tolist()}.")
    if choices and ((actions < 0) | (actions >= choices) | (actions % 1 != 0)).any():
        raise UserError(f"An action of this world is one of {choices} choices, counted from 0; got {actions.tolist()}.")
    low, high = (np.array(bound or [end], np.float32) for bound, end in ((spec.low, -np.inf), (spec.high, np.inf)))
    outside = (actions < low - ROUNDING * abs(low)) | (actions > high + ROUNDING * abs(high))
    if not choices and outside.any():
        row = int(outside.any(1).argmax())
        raise UserError(
            f"The action {actions[row].tolist()} is outside of {list(spec.low)} to {list(spec.high)}, where nothing "
            "was recorded: clip it, such as with gymnasium.wrappers.ClipAction."
        )
    return actions


def configured(settings: dict[str, Any]) -> ImaginedConfig:
    """Settings given by name.

    Raises:
        UserError: one that is not known.
    """
    unknown = sorted(settings.keys() - ImaginedConfig.__dataclass_fields__.keys())
    if unknown:
        known = ", ".join(ImaginedConfig.__dataclass_fields__)
        raise UserError(f"Unknown setting of an imagined world: {', '.join(unknown)}; there are {known}.")
    return ImaginedConfig(**settings)

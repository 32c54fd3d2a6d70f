"""Gymnasium environments seen as images: those that show images, and any that can be drawn.

`gym:ID@64` asks for images of 64 by 64 pixels. An environment that shows images has them scaled to that size, which is
also what happens without `@`; any other is drawn at every step, and its own observation is not recorded.
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from PIL import Image

from loopwm.envs.mujoco_labels import GL
from loopwm.errors import UserError
from loopwm.spaces import channels_first

SIDE = 64
"""Pixels on each side where nothing else is said."""
SMALLEST, LARGEST = 8, 1024


def split_size(env_id: str) -> tuple[str, int]:
    """`HalfCheetah-v5@64` -> (`HalfCheetah-v5`, 64); without `@` the size is 0.

    Raises:
        UserError: what follows `@` is no size.
    """
    name, mark, size = env_id.rpartition("@")
    if not mark:
        return env_id, 0
    if not size.isdecimal() or not SMALLEST <= int(size) <= LARGEST:
        raise UserError(
            f"'{env_id}' asks for images of '{size}' pixels; give a number from {SMALLEST} to {LARGEST}, as in "
            f"{name}@{SIDE}."
        )
    return name, int(size)


def is_image(space: spaces.Space) -> bool:
    """Whether observations are images: (H, W, C) or (C, H, W) uint8."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


class Resized(gymnasium.ObservationWrapper):
    """Images as (side, side, C) uint8, every pixel the mean of the area it covers; channels come last."""

    def __init__(self, env: gymnasium.Env, side: int) -> None:
        super().__init__(env)
        shape = env.observation_space.shape
        assert shape is not None
        self.side, self.channels_first = side, channels_first(shape)
        channels = shape[0] if self.channels_first else shape[-1]
        self.observation_space = spaces.Box(0, 255, (side, side, channels), np.uint8)

    def observation(self, observation: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """One image, scaled."""
        image = np.moveaxis(observation, 0, -1) if self.channels_first else observation
        if image.shape[:2] == (self.side, self.side):
            return np.ascontiguousarray(image)
        # Channel by channel where they are no colours, such as several frames in one observation.
        if image.shape[-1] == 3:
            return self._scaled(image)
        return np.stack([self._scaled(image[..., channel]) for channel in range(image.shape[-1])], axis=-1)

    def _scaled(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize((self.side, self.side), Image.Resampling.BOX))


class Drawn(gymnasium.Wrapper):
    """What an environment draws, instead of what it observes: (H, W, 3) uint8."""

    def __init__(self, env: gymnasium.Env, shape: tuple[int, ...]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's, with a picture."""
        _, info = self.env.reset(seed=seed, options=options)
        return self.env.render(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's, with a picture."""
        _, reward, terminated, truncated, info = self.env.step(action)
        return self.env.render(), reward, terminated, truncated, info


def drawn(env: gymnasium.Env, side: int) -> gymnasium.Env:
    """An environment made with `render_mode="rgb_array"`, observed through what it draws.

    Raises:
        UserError: it draws nothing, or what it draws with is missing.
    """
    physics = hasattr(env.unwrapped, "mujoco_renderer")
    if physics:
        prepare_mujoco(env.unwrapped, side)
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    try:
        env.reset(seed=0)
        picture = env.render()
    except Exception as error:
        env.close()
        # Engines fail in ways of their own where there is no screen, no library or no driver.
        remedy = GL if physics else "install what it draws with, such as gymnasium[classic-control]"
        raise UserError(f"{name} cannot be drawn here ({type(error).__name__}: {error}); {remedy}.") from error
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.dtype != np.uint8:
        raise UserError(f"{name} draws no images in its mode 'rgb_array'; record it without @{side}.")
    return Drawn(env, picture.shape)


def prepare_mujoco(world: Any, side: int) -> None:
    """Let MuJoCo draw small images quickly, before its renderer is made: they are not those of other benchmarks.

    Shadows and smoothing take nearly all the time: 19 images of 64 by 64 a second with them, hundreds without. Without
    a screen it draws through EGL, unless the variable MUJOCO_GL says otherwise.
    """
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    visual = world.model.vis
    visual.quality.shadowsize = visual.quality.offsamples = 0
    visual.global_.offwidth = visual.global_.offheight = side
    renderer = world.mujoco_renderer
    renderer.width = renderer.height = side

"""Gymnasium environments seen as images, by themselves or drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store
from loopwm.envs.gymnasium_pixels import Resized, drawn, split_size
from loopwm.envs.gymnasium_worlds import own_world
from loopwm.envs.registry import find_world
from loopwm.errors import UserError
from loopwm.spaces import ObservationSpec

SHAPES = {"Colour": (40, 60, 3), "Leading": (3, 32, 32), "Stack": (16, 16, 5)}


class Noise(gymnasium.Env[Any, Any]):
    """Shows, or draws, random images."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, shape: tuple[int, ...] = (40, 60, 3), render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space, self.render_mode = spaces.Discrete(2), render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.render(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.render(), 0.0, False, False, {}

    def render(self) -> Any:
        return self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)


class Broken(Noise):
    """Has nothing to draw with."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        return np.zeros(2, np.float32), {}

    def render(self) -> Any:
        raise OSError("libEGL.so.1 not found")


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    for name, shape in SHAPES.items():
        gymnasium.register(f"test/{name}-v0", f"{__name__}:Noise", max_episode_steps=6, kwargs={"shape": shape})
    gymnasium.register("test/Broken-v0", f"{__name__}:Broken", max_episode_steps=6)
    yield
    for name in (*SHAPES, "Broken"):
        del gymnasium.registry[f"test/{name}-v0"]


@pytest.mark.parametrize(
    ("world", "shape", "names"),
    [
        ("gym:test/Colour-v0", (64, 64, 3), ("red", "green", "blue")),
        ("gym:test/Colour-v0@16", (16, 16, 3), ("red", "green", "blue")),
        ("gym:test/Leading-v0@32", (32, 32, 3), ("red", "green", "blue")),
        ("gym:test/Stack-v0@8", (8, 8, 5), tuple(f"channel{i}" for i in range(5))),
    ],
)
def test_images_are_recorded_as_images(tmp_path: Path, world: str, shape: tuple, names: tuple) -> None:
    collect(CollectConfig(world, episodes=2, workers=1), tmp_path / "out.h5")
    with Store.open(tmp_path / "out.h5") as store:
        assert (store.meta.observation.kind, store.meta.observation.shape) == ("image", shape)
        assert store.meta.observation.names == names and "pillow" in store.meta.versions
        assert store.episode(1).observations.dtype == np.uint8
        assert store.ep_len.tolist() == [6, 6]
        assert store.meta.command.startswith(f"loopwm collect {world} ")


def test_an_environment_of_ones_own_may_show_images(tmp_path: Path) -> None:
    meta = collect(CollectConfig(episodes=2, workers=1), tmp_path / "x.h5", world=own_world(Noise, max_steps=4))
    assert meta.observation == ObservationSpec("image", (64, 64, 3), ("red", "green", "blue"))


def test_scaling_down_takes_the_mean_of_the_area_and_puts_channels_last() -> None:
    env = gymnasium.make("test/Leading-v0")
    small = Resized(env, 8)
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    means = image.reshape(3, 8, 4, 8, 4).mean((2, 4)).transpose(1, 2, 0)
    assert np.abs(small.observation(image).astype(float) - means).max() <= 1
    same = Resized(env, 32).observation(image)
    np.testing.assert_array_equal(same, image.transpose(1, 2, 0))


def test_a_size_that_is_none_is_refused() -> None:
    assert split_size("A-v0") == ("A-v0", 0)
    assert split_size("ns/A-v0@96") == ("ns/A-v0", 96)
    for size in ("", "x", "-4", "7", "5000"):
        with pytest.raises(UserError, match="give a number from 8 to 1024, as in A-v0@64"):
            split_size(f"A-v0@{size}")


def test_an_environment_that_cannot_draw_says_why_and_what_to_install() -> None:
    with pytest.raises(UserError, match=r"test/Broken-v0 cannot be drawn here \(OSError: libEGL.so.1 not found\)"):
        find_world("gym:test/Broken-v0@64")

    class Physics(Broken):
        def __init__(self) -> None:
            super().__init__()
            from types import SimpleNamespace

            quality, globe = SimpleNamespace(shadowsize=9, offsamples=9), SimpleNamespace(offwidth=9, offheight=9)
            self.model = SimpleNamespace(vis=SimpleNamespace(quality=quality, global_=globe))
            self.mujoco_renderer = SimpleNamespace(width=9, height=9)

    with pytest.raises(UserError, match="apt-get install libegl1 libopengl0 libgl1-mesa-dri"):
        drawn(Physics(), 64)


def test_mujoco_is_drawn_without_shadows_and_replays(tmp_path: Path) -> None:
    mujoco = pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    pytest.importorskip("imageio", reason="Gymnasium's MuJoCo renderer needs imageio")
    try:
        world = find_world("gym:InvertedPendulum-v5@32")
    except UserError as error:
        pytest.skip(f"no GL here: {error}")
    env = world.make(5)
    seen = [env.reset(seed=3)[0]]
    model: Any = env.unwrapped
    assert isinstance(model.model, mujoco.MjModel)
    assert (model.model.vis.quality.shadowsize, model.model.vis.quality.offsamples) == (0, 0)
    seen += [env.step(np.array([2.5], np.float32))[0] for _ in range(4)]
    env.close()
    again = world.make(5)
    np.testing.assert_array_equal(again.reset(seed=3)[0], seen[0])
    again.close()
    assert seen[0].shape == (32, 32, 3) and seen[0].dtype == np.uint8
    assert seen[0].std() > 5 and any(not np.array_equal(seen[0], later) for later in seen[1:])

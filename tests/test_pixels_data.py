"""Images from the world to the window: what is drawn is what is stored, byte for byte, and the rest works on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from loopwm.data.ahead import ReadAhead
from loopwm.data.cache import Columns, open_memmap
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.episode import Episode
from loopwm.data.statistics import compute_statistics
from loopwm.data.store import Store, StoreMeta, write_store
from loopwm.data.windows import WindowSampler
from loopwm.envs.physics.billiards import Billiards, BilliardsConfig, draw
from loopwm.envs.registry import find_world
from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec, channel_names
from loopwm.train.augment import offsets, shifted

SPEC = ObservationSpec("image", (6, 5, 3), channel_names(3))
META = StoreMeta("toy", SPEC, ActionSpec("discrete", 2))


def toy(length: int, seed: int) -> Episode:
    draws = np.random.default_rng(seed)
    images = draws.integers(0, 256, (length + 1, 6, 5, 3), dtype=np.uint8)
    return Episode(images, np.zeros((length, 1), np.float32), np.zeros(length, np.float32), False, seed=seed)


def columns_of(path: Path, episodes: list[Episode]) -> Columns:
    write_store(path, episodes, META)
    with Store.open(path) as store:
        return open_memmap(store)


# ---- the world ----


def test_a_disc_is_drawn_as_if_every_pixel_had_been_looked_at() -> None:
    """The reference blends each disc over the whole table, pixel by pixel."""
    config, env = BilliardsConfig(), Billiards()
    env.reset(seed=4)
    side, pixel = config.pixels, 2 * config.half_width / config.pixels
    x = (np.arange(side) + 0.5) * pixel - config.half_width
    for step in range(5):
        state = env.step(np.array([1.0, -1.0]))[0]
        # Also partly and wholly off the table, where an imagined disc may be.
        state[1:3, :2] += step * 0.6
        image = np.empty((side, side, 3))
        image[:] = draw(np.full((1, 5), 9.0), config)[0, 0]
        colours = [draw(np.zeros((k + 1, 5)), config)[side // 2, side // 2].astype(float) for k in range(6)]
        for (px, py), colour in zip(state[:, :2], colours, strict=True):
            distance = np.hypot(x[None, :] - px, -x[:, None] - py)
            cover = np.clip((config.radius - distance) / pixel + 0.5, 0, 1)[..., None]
            image += cover * (colour - image)
        assert np.abs(draw(state, config).astype(float) - image).max() <= 1


def test_the_pixel_world_is_the_billiards_world_with_a_camera(tmp_path: Path) -> None:
    for name in ("billiards", "billiards-pixels"):
        collect(CollectConfig(name, episodes=3, max_steps=7, workers=1, seed=5), tmp_path / f"{name}.h5")
    with Store.open(tmp_path / "billiards.h5") as state, Store.open(tmp_path / "billiards-pixels.h5") as seen:
        assert seen.meta.observation == ObservationSpec("image", (64, 64, 3), ("red", "green", "blue"), dt=0.25)
        assert (seen.meta.action, seen.meta.label_names) == (state.meta.action, state.meta.label_names)
        for index in range(3):
            discs, images = state.episode(index), seen.episode(index)
            np.testing.assert_array_equal(discs.actions, images.actions)
            np.testing.assert_array_equal(discs.labels["impulse"], images.labels["impulse"])
            assert images.observations.dtype == np.uint8
            for o, image in zip(discs.observations, images.observations, strict=True):
                np.testing.assert_array_equal(draw(o, BilliardsConfig()), image)


def test_a_slower_disc_in_the_same_place_is_the_same_image() -> None:
    """Why a model of images has to remember."""
    world = find_world("billiards-pixels").make(0)
    world.reset(seed=1)
    inner = world.unwrapped
    assert isinstance(inner, Billiards)
    fast = inner.observation()
    slow = fast * np.array([1, 1, 0.1, 0.1, 1], np.float32)
    np.testing.assert_array_equal(draw(fast, inner.config), draw(slow, inner.config))


# ---- the store ----


def test_images_are_stored_as_compressed_bytes_and_come_back_whole(tmp_path: Path) -> None:
    episodes = [toy(length, seed) for seed, length in enumerate((1, 4, 9))]
    columns = columns_of(tmp_path / "toy.h5", episodes)
    assert columns.observation.dtype == np.uint8 and isinstance(columns.observation.base, np.memmap)
    with Store.open(tmp_path / "toy.h5") as store, h5py.File(tmp_path / "toy.h5") as file:
        assert [one.fingerprint for one in episodes] == list(store.fingerprints)
        for index, episode in enumerate(episodes):
            found = store.episode(index)
            assert found.observations.dtype == np.uint8
            np.testing.assert_array_equal(found.observations, episode.observations)
            rows = slice(columns.ep_offset[index], columns.ep_offset[index] + episode.length + 1)
            np.testing.assert_array_equal(columns.observation[rows], episode.observations)
        dataset = file["observation"]
        assert isinstance(dataset, h5py.Dataset)
        assert (dataset.dtype, dataset.compression, dataset.fletcher32) == (np.uint8, "gzip", True)


def test_a_changed_pixel_changes_the_digest(tmp_path: Path) -> None:
    one = columns_of(tmp_path / "one.h5", [toy(3, 0)]).digest
    other = toy(3, 0)
    other.observations[2, 1, 1, 1] ^= 1
    assert columns_of(tmp_path / "other.h5", [other]).digest != one


def test_images_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    floats = replace(toy(3, 0), observations=toy(3, 0).observations / np.float32(255))
    with pytest.raises(UserError, match="images of type float32, the store expects uint8, from 0 to 255"):
        write_store(tmp_path / "no.h5", [floats], META)
    assert not list(tmp_path.iterdir())
    columns_of(tmp_path / "toy.h5", [toy(3, 0)])
    with h5py.File(tmp_path / "toy.h5", "r+") as file:
        images = np.asarray(file["observation"], np.float32)
        del file["observation"]
        file["observation"] = images
    with pytest.raises(UserError, match="images of type float32, and they have to be uint8"):
        Store.open(tmp_path / "toy.h5")


@pytest.mark.parametrize(
    ("shape", "names", "words"),
    [((6, 5), ("a",) * 5, "needs 3 positive"), ((6, 5, 3), ("red",), "1 feature names were given for 3")],
)
def test_an_image_spec_names_its_channels(shape: tuple[int, ...], names: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ObservationSpec("image", shape, names)


def test_statistics_of_images_are_per_channel_and_exact(tmp_path: Path) -> None:
    episodes = [toy(5, seed) for seed in range(4)]
    for episode in episodes:
        episode.observations[..., 1] //= 3
        episode.observations[..., 2] = 77
    columns = columns_of(tmp_path / "toy.h5", episodes)
    found = compute_statistics(columns, np.array([0, 2]))
    pixels = np.concatenate([episodes[i].observations.reshape(-1, 3) for i in (0, 2)]).astype(np.float64)
    np.testing.assert_allclose(found.observation_mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.observation_std, [*pixels.std(0)[:2], 1.0], rtol=1e-6)
    assert found.observation_changes.tolist() == [True, True, False]


# ---- windows ----


def test_windows_hold_bytes_and_reading_ahead_changes_none_of_them(tmp_path: Path) -> None:
    columns = columns_of(tmp_path / "toy.h5", [toy(9, seed) for seed in range(5)])
    plain, ahead = (WindowSampler(columns, np.arange(5), seed=3) for _ in range(2))
    reader = ReadAhead(ahead)
    shapes = [(8, 3), (8, 3), (8, 4), (16, 2), (6, 5), (6, 5)]
    for step, shape in enumerate(shapes):
        # Now and then something else is announced than is then asked for.
        following = None if step == 1 else (8, 4) if step == 3 else shapes[min(step + 1, 5)]
        windows, expected = reader.take(*shape, following), plain.sample(*shape)
        assert windows.observations.dtype == torch.uint8
        assert torch.equal(windows.observations, expected.observations) and torch.equal(windows.start, expected.start)
        # What is read ahead is not counted as drawn.
        assert ahead.state() == plain.state()
    ahead.restore(replace(plain.state(), draws=1))
    plain.restore(ahead.state())
    assert torch.equal(reader.take(8, 3).observations, plain.sample(8, 3).observations)
    reader.close()


def test_a_fault_while_reading_ahead_is_raised_where_it_is_taken(tmp_path: Path) -> None:
    columns = columns_of(tmp_path / "toy.h5", [toy(4, 0)])
    reader = ReadAhead(WindowSampler(columns, np.arange(1), seed=0))
    reader.take(2, 3, following=(2, 40))
    with pytest.raises(UserError, match="A window of 40 transitions does not fit"):
        reader.take(2, 40)
    reader.close()


def test_a_shift_moves_all_images_of_a_window_alike_and_repeats_the_edge(tmp_path: Path) -> None:
    columns = columns_of(tmp_path / "toy.h5", [toy(9, seed) for seed in range(5)])
    windows = WindowSampler(columns, np.arange(5), seed=3).sample(40, 3)
    by = offsets(7, 11, 40, most=2)
    moved = shifted(windows, by, most=2).observations
    for window in range(40):
        down, right = by[window].tolist()
        rows = np.clip(np.arange(6) - down, 0, 5)
        columns_ = np.clip(np.arange(5) - right, 0, 4)
        expected = windows.observations[window].numpy()[:, rows][:, :, columns_]
        np.testing.assert_array_equal(moved[window].numpy(), expected)
    assert set(by.flatten().tolist()) == {-2, -1, 0, 1, 2}
    assert torch.equal(by, offsets(7, 11, 40, most=2)) and not torch.equal(by, offsets(7, 12, 40, most=2))

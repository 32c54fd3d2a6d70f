"""The memory-mapped columns are those of the store, whatever happened to the files since they were written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from loopwm.data.cache import Columns, open_memmap
from loopwm.data.store import Store
from loopwm.errors import UserError


@pytest.fixture
def recording(billiards_store: Path, tmp_path: Path) -> Path:
    """A copy without a cache, to be damaged and deleted."""
    return Path(shutil.copy(billiards_store, tmp_path / "copy.h5"))


def opened(path: Path) -> Columns:
    with Store.open(path) as store:
        return open_memmap(store)


def assert_columns_of(path: Path, columns: Columns) -> None:
    with Store.open(path) as store:
        np.testing.assert_array_equal(columns.observation, store.read("observation"))
        np.testing.assert_array_equal(columns.action, store.read("action"))
        np.testing.assert_array_equal(columns.reward, store.read("reward"))
        np.testing.assert_array_equal(columns.continues, store.read("continue"))
        assert set(columns.labels) == set(store.meta.label_names)
        for name, column in columns.labels.items():
            np.testing.assert_array_equal(column, store.read(f"label/{name}"))
        assert (columns.digest, columns.meta) == (store.digest, store.meta)


def cache_of(path: Path) -> Path:
    return path.with_name(path.name + ".cache")


def test_the_memory_map_holds_the_columns_of_the_store(recording: Path):
    columns = opened(recording)
    assert isinstance(columns.observation.base, np.memmap)
    assert_columns_of(recording, columns)


def test_the_memory_map_is_reused_until_the_store_changes(recording: Path):
    def built_and_read() -> tuple[int, float]:
        columns = opened(recording)
        (folder,) = cache_of(recording).iterdir()
        return (folder / "reward.npy").stat().st_mtime_ns, float(columns.reward[0])

    before = built_and_read()
    assert built_and_read() == before
    with h5py.File(recording, "r+") as file:
        file["reward"][0] = 123.0  # type: ignore[index]
    changed = built_and_read()
    assert changed[0] != before[0]
    assert changed[1] == 123.0


def test_columns_are_held_in_memory_where_nothing_can_be_written(recording: Path):
    cache_of(recording).write_text("a file where the folder should go")
    assert_columns_of(recording, opened(recording))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["observation.npy", "label.impulse.npy", "store.json"])
@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_a_damaged_cache_is_built_again(recording: Path, name: str, damage: Callable[[Path], None]):
    opened(recording)
    (folder,) = cache_of(recording).iterdir()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder / name)
    columns = opened(recording)
    assert isinstance(columns.observation.base, np.memmap)
    assert_columns_of(recording, columns)
    # Nothing is left of the damaged one, neither in the cache nor beside it.
    assert list(cache_of(recording).iterdir()) == [folder]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_a_cache_whose_store_is_gone_is_no_substitute(recording: Path):
    opened(recording)
    (folder,) = cache_of(recording).iterdir()
    truncate(folder / "observation.npy")
    recording.unlink()
    with pytest.raises(UserError, match=r"There is no store at .*copy\.h5; record one with"):
        opened(recording)

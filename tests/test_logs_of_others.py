"""Logs that are not what they should be: refused with one sentence that says what and where, and never misread."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from loopwm.cli import main
from loopwm.data.formats import npz
from loopwm.data.formats.recording import as_store
from loopwm.data.formats.registry import open_source, write_source
from loopwm.errors import LoopwmError, UserError
from loopwm.spaces import ActionSpec, ObservationSpec

minari = pytest.importorskip("minari", reason="minari is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

SEEN = np.random.default_rng(0).normal(size=(7, 2))


def logged(file: Path, **changes: Any) -> Path:
    """An episode of six choices, with some arrays changed; returns the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"observations": SEEN, "actions": np.arange(6) % 3, "rewards": np.ones(6)}
    np.savez(file, **(arrays | changes))
    return file.parent


def read(path: Path | str) -> list:
    return list(open_source(path).episodes())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": np.arange(6) == 2}, "terminals marks step 2 of 6, after which this goes on"),
        ({"timeouts": np.arange(6) == 3}, "timeouts marks step 3 of 6"),
        ({"terminated": np.zeros(4, bool)}, r"terminated has shape \(4,\); give one for the episode, or one for each"),
        ({"actions": np.array([-1, 0, 1, 0, 1, 1])}, "whole numbers below 0, and choices are counted from 0"),
        ({"actions": np.array(list("abcdef"))}, "actions of shape .* are no numbers"),
        ({"observations": SEEN[:-1]}, "6 observations; the one after the last action is missing"),
        (
            {"observations": SEEN[5::-1], "next_observations": SEEN[:0:-1]},
            "next_observations are not the observations that come next",
        ),
        ({"observations": SEEN[:-1], "next_observations": np.zeros((6, 3))}, r"next_observations \(6, 3\)"),
        ({"observations": np.zeros((7, 3, 16, 16), np.uint8)}, "seem to have their channels first"),
        ({"note": np.array(list("abcdef"))}, "'note' is of type <U1 instead of numbers"),
        ({"place": np.zeros((6, 3))}, r"got place of shape \(6, 3\)"),
        ({"seed": np.arange(6)}, "'seed' of shape .* is no whole number"),
        ({"seed": np.array(np.nan)}, "'seed' of shape .* is no whole number"),
        ({"reward": np.ones(6)}, "'reward' has no meaning here, and would be taken for a label"),
        ({"dones": np.zeros(6)}, "'dones' has no meaning here"),
        ({"infos": np.array([{}] * 6)}, "cannot be read as an .npz file .*more than arrays of numbers"),
    ],
)
def test_arrays_that_mean_something_else_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}/logs/a\.npz: .*({message})"):
        read(logged(tmp_path / "logs" / "a.npz", **changes))


def test_what_one_file_has_and_another_has_not_is_named(tmp_path: Path) -> None:
    logged(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"a\.npz has the labels \[\] and .*b\.npz has \['slip'\]"):
        read(logged(tmp_path / "b.npz", slip=np.zeros(6)))


def test_arrays_that_disagree_with_the_file_beside_them_are_refused(tmp_path: Path) -> None:
    source = open_source(logged(tmp_path / "logs" / "a.npz"))
    write_source(tmp_path / "out", source.meta, source.episodes())
    logged(tmp_path / "out" / "b.npz", actions=np.zeros((6, 2)))
    assert main(["data", "validate", str(tmp_path / "out")]) == 1
    with pytest.raises(UserError, match=r"b\.npz: actions have 2 number\(s\) each and should have 1"):
        read(tmp_path / "out")


def test_truth_values_are_choices_and_features(tmp_path: Path) -> None:
    source = open_source(logged(tmp_path / "a.npz", actions=np.arange(6) % 2 == 0, observations=SEEN > 0))
    assert source.meta.action == ActionSpec("discrete", 2)
    np.testing.assert_array_equal(next(source.episodes()).observations, SEEN > 0)


@pytest.mark.parametrize("content", [b"", b"no zip file", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npz_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz: this cannot be read as an \.npz file"):
        read(tmp_path)


def rows(**changes: Any) -> dict[str, Any]:
    """Two episodes of three transitions as a table, with some columns changed."""
    table = {
        "episode": [0] * 4 + [1] * 4,
        "observation": np.arange(16.0).reshape(8, 2).tolist(),
        "action": [1, 0, 2, None] * 2,
        "reward": [0.5, 0.5, 0.5, None] * 2,
        "terminated": [False, False, True, None] * 2,
    }
    return table | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": [[1.0, 2.0], [3.0, 4.0, 5.0], [6.0], [1.0, 2.0]] * 2}, "observation is a list of 1 .* of 3"),
        ({"observation": [[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0]] * 2}, "row 1 has no observation"),
        ({"action": [[1.0, 2.0, 3.0, 4.0], None, [1.0, 2.0, 3.0, 4.0], None] * 2}, "row 1 has no action"),
        ({"reward": [0.0, 0.0, 1.0, 2.0] * 2}, r"the last row has no action, and yet reward 2\.0"),
        ({"terminated": [False, False, False, True] * 2}, "the last row has no action, and yet terminated True"),
        ({"terminated": [False, True, False, None] * 2}, "terminated marks step 1 of 3"),
        ({"action": [[1.0, 2.0]] * 3 + [None] + [[1.0]] * 3 + [None]}, r"has 2 number\(s\) per action and .* has 1"),
        ({"note": list("abcdefgh")}, "'note' is of type object instead of numbers"),
        ({"episode": [0, 0, 0, 0, 1, 1, 1, None]}, "row 0 has no episode|the one after the last action is missing"),
        ({"rewards": [1.0] * 8}, "'rewards' has no meaning here"),
    ],
)
def test_rows_that_mean_something_else_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(rows(**changes)), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=rf"x\.parquet, episode .*({message})"):
        read(tmp_path / "x.parquet")


def test_the_files_of_a_parquet_folder_need_the_same_columns_and_worlds(tmp_path: Path) -> None:
    pq.write_table(pa.table(rows()), tmp_path / "a.parquet")
    pq.write_table(pa.table({"episode": [1], "action": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet has no column 'observation'"):
        read(tmp_path)
    (tmp_path / "b.parquet").unlink()
    source = open_source(tmp_path)
    write_source(tmp_path / "c.parquet", source.meta, source.episodes())
    with pytest.raises(UserError, match=r"a\.parquet and .*c\.parquet are of different worlds"):
        read(tmp_path)


def test_a_seed_that_is_null_is_unknown(tmp_path: Path) -> None:
    pq.write_table(pa.table(rows(seed=[7] * 4 + [None] * 4)), tmp_path / "x.parquet")
    assert [one.seed for one in read(tmp_path / "x.parquet")] == [7, -1]


def test_several_formats_in_one_folder_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table(rows()), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"holds files of several formats \(parquet, npz\)"):
        open_source(logged(tmp_path / "a.npz"))


def test_what_was_written_under_any_name_is_read_again(tmp_path: Path) -> None:
    source = open_source(logged(tmp_path / "logs" / "a.npz"))
    for kind, name in (("parquet", "plain"), ("npz", "folder.h5"), ("store", "store")):
        write_source(tmp_path / name, source.meta, source.episodes(), kind)
        assert [one.fingerprint for one in read(tmp_path / name)] == [one.fingerprint for one in source.episodes()]


def test_a_target_that_says_no_format_or_is_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = open_source(logged(tmp_path / "logs" / "a.npz"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "out.part").mkdir()
    for out, message in (
        ("x.npz", "x.npz says no format: end it in .h5 or .parquet"),
        ("empty", "empty already exists and is not overwritten"),
        ("memory://bucket/x.h5", "recordings are written to this machine only"),
    ):
        with pytest.raises(UserError, match=message):
            write_source(Path(out), source.meta, source.episodes())
    write_source(Path("out"), source.meta, source.episodes())
    # A folder of the user's own, which was taken for what an earlier conversion had left.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "logs", "out", "out.part"]


def test_logs_in_the_current_folder_are_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(logged(tmp_path / "logs" / "a.npz"))
    told: list[str] = []
    first, second = as_store(Path("."), told.append), as_store(Path("."), told.append)
    assert first == second and first.name.startswith("logs-") and len(told) == 1
    assert open_source(first).meta.world == "logs:logs"


def test_a_split_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        logged(tmp_path / "logs" / f"{number:02d}.npz", observations=SEEN + number)
    written = npz.NpzFormat.write

    def stopped(self: npz.NpzFormat, path: Path, *rest: Any) -> None:
        if path.name == "validation":
            raise KeyboardInterrupt
        written(self, path, *rest)

    monkeypatch.setattr(npz.NpzFormat, "write", stopped)
    assert main(["data", "split", str(tmp_path / "logs"), str(tmp_path / "out"), "--to", "npz"]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


@pytest.mark.parametrize("name", ["bad id", "unversioned"])
def test_an_id_that_is_none_leaves_nothing_that_hides_the_other_datasets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    source = open_source(logged(tmp_path / "logs" / "a.npz"))
    write_source(Path("minari:good-v0"), source.meta, source.episodes())
    with pytest.raises(UserError, match=f"'{name}' is no id of a Minari dataset"):
        write_source(Path(f"minari:{name}"), source.meta, source.episodes())
    assert len(read("minari:good-v0")) == 1
    (tmp_path / "minari" / "odd name" / "data").mkdir(parents=True)
    with pytest.raises(UserError, match=r"Minari cannot list its datasets .*odd name.*; move"):
        open_source("minari:good-v0")


def test_a_disk_without_room_for_a_minari_dataset_is_noticed_before_hdf5_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    source = open_source(logged(tmp_path / "logs" / "a.npz"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**19))
    with pytest.raises(LoopwmError, match="has 0 MiB left and the next episodes may take 1 MiB; free some space"):
        write_source(Path("minari:mine-v0"), source.meta, source.episodes())
    assert not list((tmp_path / "minari").rglob("*.hdf5"))


def test_identifiers_are_not_taken_for_choices(tmp_path: Path) -> None:
    folder = logged(tmp_path / "logs" / "a.npz", actions=5_000 * np.arange(6))
    with pytest.raises(UserError, match="actions up to 25000, which would be 25001 choices; store them as"):
        open_source(folder)


def test_a_damaged_minari_dataset_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    source = open_source(logged(tmp_path / "logs" / "a.npz"))
    write_source(Path("minari:good-v0"), source.meta, source.episodes())
    (data,) = (tmp_path / "minari").rglob("*.hdf5")
    data.write_bytes(data.read_bytes()[:500])
    with pytest.raises(UserError, match=r"minari:good-v0, episode 0: this is damaged .*truncated"):
        read("minari:good-v0")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_images_have_their_channels_last_and_several_choices_are_an_index_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), np.uint8)
    for name, act in (
        ("both", gymnasium.spaces.MultiBinary(2)),
        ("table", gymnasium.spaces.MultiDiscrete(np.full((2, 1), 2), start=np.ones((2, 1), np.int64))),
    ):
        acted = np.array([[0, 1], [1, 1]]) + (name == "table")
        buffer = EpisodeBuffer(
            observations=list(images),
            actions=[one.reshape(act.shape).astype(act.dtype) for one in acted],
            rewards=[1.0, 2.0],
            terminations=[False, True],
            truncations=[False, False],
            infos={},
        )
        minari.create_dataset_from_buffers(
            f"{name}-v0",
            [buffer],
            observation_space=gymnasium.spaces.Box(0, 255, (3, 16, 16), np.uint8),
            action_space=act,
            jpeg_encoding=False,
        )
        source = open_source(f"minari:{name}-v0")
        assert source.meta.observation == ObservationSpec("image", (16, 16, 3), ("red", "green", "blue"))
        assert source.meta.action.choices == (2, 2)
        (episode,) = source.episodes()
        np.testing.assert_array_equal(episode.observations, np.moveaxis(images, 1, -1))
        np.testing.assert_array_equal(episode.actions, [[0, 1], [1, 1]])

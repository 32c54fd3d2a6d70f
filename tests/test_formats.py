"""Recordings in other formats: nothing is lost on the way there and back, and logs of others are understood."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.cli import main
from loopwm.data import inspection
from loopwm.data.checks import check
from loopwm.data.episode import Episode
from loopwm.data.formats.recording import as_store
from loopwm.data.formats.registry import format_of, open_source, write_source
from loopwm.data.formats.remote import fetched
from loopwm.data.meta import StoreMeta
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec

minari = pytest.importorskip("minari", reason="minari is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

OBSERVATIONS = (
    ObservationSpec("vector", (3,), ("a", "b", "c"), (("a", "b"),), 0.5),
    ObservationSpec("vector", (1,), ("only",)),
    ObservationSpec("entities", (4, 2), ("x", "vx"), (("x", "vx"),), 0.1),
    ObservationSpec("image", (5, 4, 3), ("red", "green", "blue")),
)
ACTIONS = (
    ActionSpec("continuous", 2, (-1.0, -2.0), (1.0, 2.0)),
    ActionSpec("discrete", 3),
    ActionSpec("multi-discrete", 5, (0.0, 0.0), (1.0, 2.0)),
)


def seen(generator: np.random.Generator, length: int, spec: ObservationSpec) -> np.ndarray:
    shape = (length + 1, *spec.shape)
    if spec.kind == "image":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.normal(size=shape).astype(np.float32)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[StoreMeta, list[Episode]]:
    observation, action = draw(st.sampled_from(OBSERVATIONS)), draw(st.sampled_from(ACTIONS))
    labels = draw(st.sampled_from([(), ("impulse",), ("impulse", "contacts")]))
    meta = StoreMeta("toy", observation, action, labels, seed=3, command="made up", versions={"python": "3"})
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    episodes = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 6))
        if action.choices:
            actions = np.stack([generator.integers(0, count, length) for count in action.choices], axis=1)
        else:
            actions = generator.uniform(action.low, action.high, (length, action.size))
        episodes.append(
            Episode(
                seen(generator, length, observation),
                actions.astype(np.float32),
                generator.normal(size=length).astype(np.float32),
                draw(st.booleans()),
                {name: generator.random(length).astype(np.float32) for name in labels},
                draw(st.sampled_from([-1, 0, 2**62])),
            )
        )
    return meta, episodes


def assert_same(one: Episode, other: Episode) -> None:
    assert one.fingerprint == other.fingerprint
    assert (one.terminated, one.seed, one.labels.keys()) == (other.terminated, other.seed, other.labels.keys())
    for name, values in one.labels.items():
        np.testing.assert_array_equal(values, other.labels[name])


@pytest.mark.parametrize("kind", ["npz", "parquet", "minari"])
@settings(max_examples=15)
@given(recording=recordings())
def test_nothing_is_lost_there_and_back(kind: str, recording: tuple[StoreMeta, list[Episode]]) -> None:
    meta, episodes = recording
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", folder)
        there = {"npz": Path(folder, "npz"), "parquet": Path(folder, "x.parquet"), "minari": Path("minari:toy/x-v0")}[
            kind
        ]
        write_source(Path(folder, "first.h5"), meta, episodes)
        first = open_source(Path(folder, "first.h5"))
        write_source(there, first.meta, first.episodes())
        assert first.count() == open_source(there).count() == len(episodes)
        write_source(Path(folder, "back.h5"), open_source(there).meta, open_source(there).episodes())
        with Store.open(Path(folder, "first.h5")) as one, Store.open(Path(folder, "back.h5")) as other:
            assert one.meta == other.meta
            assert one.digest == other.digest
            for index, episode in enumerate(episodes):
                assert_same(episode, other.episode(index))


def logs(folder: Path, episodes: int = 30, **changes: np.ndarray) -> Path:
    """What a program of one's own would write: arrays and nothing else."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(episodes):
        length = 12 + number % 5
        actions = generator.integers(0, 3, length)
        place = np.concatenate([[0.0], np.cumsum(actions - 1.0)]) + generator.normal(size=length + 1)
        columns = {
            "observations": np.stack([place, place**2], axis=1),
            "actions": actions,
            "rewards": -np.abs(place[1:]),
            "terminations": np.arange(length) == length - 1,
            "slip": generator.random(length),
        }
        arrays: dict[str, Any] = columns | changes
        np.savez(folder / f"run{number:03d}.npz", **arrays)
    return folder


def test_logs_without_any_description_are_understood(tmp_path: Path) -> None:
    source = open_source(logs(tmp_path / "logs"))
    assert source.meta.observation == ObservationSpec("vector", (2,), ("feature0", "feature1"))
    assert source.meta.action == ActionSpec("discrete", 3)
    assert source.meta.label_names == ("slip",)
    episode = next(source.episodes())
    assert episode.terminated and episode.length == 12 and episode.seed == -1


def test_next_observations_stand_for_the_final_one(tmp_path: Path) -> None:
    observed = np.arange(9.0)[:, None]
    (tmp_path / "logs").mkdir()
    np.savez(
        tmp_path / "logs" / "a.npz",
        observations=observed[:-1],
        next_observations=observed[1:],
        actions=np.zeros((8, 1)),
    )
    np.testing.assert_array_equal(next(open_source(tmp_path / "logs").episodes()).observations, observed)


def test_a_folder_of_logs_is_trained_on_and_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    logs(tmp_path / "logs", 40)
    assert main(["train", "debug", "--data", "logs", "--run", "runs/a"]) == 0
    shown = capsys.readouterr()
    assert "Converting logs (npz) to data/converted/logs-" in shown.out and "converting 40/40" in shown.err
    assert main(["train", "debug", "--data", "logs", "--run", "runs/b"]) == 0
    assert "Converting" not in capsys.readouterr().out
    assert (
        main(
            [
                "evaluate",
                "runs/a",
                "--transitions",
                "100",
                "--rollouts",
                "20",
                "--training-rollouts",
                "100",
                "--stability-steps",
                "20",
                "--resamples",
                "50",
                "--speed.rounds",
                "1",
            ]
        )
        == 0
    )
    before = as_store(Path("logs"), print)
    (tmp_path / "logs" / "run000.npz").unlink()
    assert as_store(Path("logs"), print) != before


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_minari_dataset_of_others_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    seen = gymnasium.spaces.Dict(
        {"goal": gymnasium.spaces.Discrete(2), "place": gymnasium.spaces.Box(-9, 9, (2,), np.float64)}
    )
    buffer = EpisodeBuffer(
        observations={"goal": [0, 1, 1], "place": [np.array([0.0, 1.0]), np.array([2.0, 3.0]), np.array([4.0, 5.0])]},
        actions=[5, 6],
        rewards=[1.0, 2.0],
        terminations=[False, False],
        truncations=[False, True],
        infos={},
    )
    minari.create_dataset_from_buffers(
        "theirs/dict-v0", [buffer], observation_space=seen, action_space=gymnasium.spaces.Discrete(3, start=5)
    )
    source = open_source("minari:theirs/dict-v0")
    assert source.meta.observation.names == ("goal0", "goal1", "place0", "place1")
    episode = next(source.episodes())
    np.testing.assert_array_equal(episode.observations, [[1, 0, 0, 1], [0, 1, 2, 3], [0, 1, 4, 5]])
    assert episode.actions[:, 0].tolist() == [0, 1] and not episode.terminated
    with pytest.raises(UserError, match=r"no local Minari dataset 'theirs/dikt-v0', .* did you mean theirs/dict-v0"):
        open_source("minari:theirs/dikt-v0")


def test_a_remote_recording_is_copied_once(tmp_path: Path, billiards_store: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/billiards.h5", billiards_store.read_bytes())
    local = fetched("memory://bucket/billiards.h5", tmp_path)
    with Store.open(local) as copy, Store.open(billiards_store) as original:
        assert copy.digest == original.digest
    assert fetched(Path("memory://bucket/billiards.h5"), tmp_path) == local  # a Path loses a slash
    with pytest.raises(UserError, match=r"There is nothing at memory://bucket/other\.h5"):
        fetched("memory://bucket/other.h5", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observations": np.zeros((4, 2))},
            r"run000\.npz: An episode of L >= 1 transitions holds L \+ 1 observations",
        ),
        (
            {"rewards": np.full(12, np.nan)},
            r"run000\.npz: Step 0 of the episode has a NaN or an infinite number in 'rewards'",
        ),
        ({"actions": np.zeros((0, 1))}, "run000.npz: An episode of L >= 1"),
        ({"observations": np.array(["a"] * 13)}, "neither vectors"),
    ],
)
def test_an_episode_that_is_none_is_named(change: dict, message: str, tmp_path: Path) -> None:
    logs(tmp_path / "logs", 1, **change)
    with pytest.raises(UserError, match=message):
        write_source(
            tmp_path / "out.h5", open_source(tmp_path / "logs").meta, open_source(tmp_path / "logs").episodes()
        )
    assert not (tmp_path / "out.h5").exists()


def test_files_of_different_worlds_in_one_folder_are_both_named(tmp_path: Path) -> None:
    folder = logs(tmp_path / "logs", 3)
    np.savez(folder / "zzz.npz", observations=np.zeros((3, 5)), actions=np.zeros(2, int))
    with pytest.raises(UserError, match=r"run000\.npz has observations of shape \(2,\) and .*zzz\.npz of shape \(5,\)"):
        open_source(folder)


def test_damaged_files_are_refused(tmp_path: Path, billiards_store: Path) -> None:
    folder = logs(tmp_path / "logs", 2)
    whole = (folder / "run001.npz").read_bytes()
    (folder / "run001.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"run001\.npz: this cannot be read as an \.npz file"):
        list(open_source(folder).episodes())
    # What else is wrong is told with it.
    values = np.random.default_rng(0).normal(size=(3, 2))
    values[2] = np.nan
    np.savez(folder / "run002.npz", observations=values, actions=np.zeros(2, int), slip=np.zeros(2))
    problems = check(open_source(folder)).problems
    assert [problem.split(":")[0].rsplit("/")[-1] for problem in problems[:2]] == ["run001.npz", "run002.npz"]
    (folder / "run000.npz").unlink()
    (folder / "run002.npz").unlink()
    with pytest.raises(UserError, match=r"run001\.npz: this cannot be read as an \.npz file"):
        open_source(folder)
    source = open_source(billiards_store)
    write_source(tmp_path / "x.parquet", source.meta, source.episodes())
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"x\.parquet cannot be read as Parquet"):
        open_source(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"There is no recording at .*nowhere"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.txt is no recording that loopwm reads"):
        open_source(tmp_path / "notes.txt")


@pytest.mark.parametrize("out", ["out", "out.parquet", "minari:half-v0"])
def test_a_conversion_that_fails_leaves_nothing(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)
    folder = logs(tmp_path / "logs", 80)
    np.savez(folder / "zzz.npz", observations=np.full((3, 2), np.nan), actions=np.zeros(2, int), slip=np.zeros(2))
    assert main(["data", "convert", "logs", out]) == 2
    assert not list(tmp_path.glob("out*")) and not list((tmp_path / "minari").glob("**/*.hdf5"))


def test_formats_are_recognised_by_what_is_there(tmp_path: Path, billiards_store: Path) -> None:
    assert format_of(billiards_store).name == "store"
    assert format_of(logs(tmp_path / "logs", 1)).name == "npz"
    assert format_of(Path("minari:a-v0")).name == "minari"
    assert format_of(tmp_path / "new.parquet").name == "parquet"


def test_all_that_is_wrong_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = logs(tmp_path / "logs", 30)
    assert main(["data", "validate", str(folder)]) == 0
    (folder / "run900.npz").write_bytes((folder / "run001.npz").read_bytes())
    cut = dict(np.load(folder / "run002.npz"))
    np.savez(
        folder / "run901.npz",
        **{name: values[: 9 if name == "observations" else 8] for name, values in cut.items()},
    )
    np.savez(folder / "run902.npz", **(cut | {"observations": cut["observations"][:-1]}))
    np.savez(folder / "run903.npz", **(cut | {"observations": cut["observations"] * np.nan}))
    repeated = cut["observations"].copy()
    repeated[-1] = repeated[-2]
    np.savez(folder / "run904.npz", **(cut | {"observations": repeated + 1}))
    assert main(["data", "validate", str(folder)]) == 1
    told = capsys.readouterr().err
    assert "run900.npz: the same episode as" in told and "run001.npz." in told
    assert "run901.npz: begins exactly like" in told
    assert "run902.npz: An episode of L >= 1 transitions holds L + 1 observations" in told
    assert "run903.npz: Step 0 of the episode" in told
    assert "run904.npz: the last observation is the one before it again" in told
    assert "has 5 problem(s); 30 episodes are fine" in told


def test_impossible_actions_are_reported(tmp_path: Path) -> None:
    meta = StoreMeta("toy", OBSERVATIONS[0], ACTIONS[0])
    generator = np.random.default_rng(0)
    episodes = [
        Episode(
            generator.normal(size=(4, 3)).astype(np.float32), np.full((3, 2), value, np.float32), np.zeros(3), False
        )
        for value in (0.5, 1.5)
    ]
    write_source(tmp_path / "x.h5", meta, episodes)
    problems = [one for one in check(open_source(tmp_path / "x.h5")).problems if "action" in one]
    assert len(problems) == 1 and "episode 1: the action of step 0 is [1.5, 1.5]" in problems[0]
    far = replace(meta, action=ActionSpec("continuous", 2, (-1000.0, -1000.0), (0.0, 0.0)))
    edge = [replace(episodes[0], actions=np.full((3, 2), -1000.0001, np.float32))]
    write_source(tmp_path / "far.h5", far, edge)
    assert not any("action" in one for one in check(open_source(tmp_path / "far.h5")).problems)
    write_source(
        tmp_path / "y.h5", replace(meta, action=ActionSpec("multi-discrete", 3, (0.0, 0.0), (1.0, 0.0))), episodes
    )
    assert any("choices are whole numbers below 2, 1" in one for one in check(open_source(tmp_path / "y.h5")).problems)


def test_what_a_recording_holds_is_told_and_drawn(
    tmp_path: Path, billiards_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "inspect", str(billiards_store), "--plot", str(tmp_path / "x.png")]) == 0
    told = capsys.readouterr().out
    with Store.open(billiards_store) as store:
        assert f"{store.num_transitions:,}" in told
        assert f"{int(store.terminated.sum())} of them terminated" in told
    assert "label impulse" in told and "entities 6 x 5" in told
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_drawing_of_very_many_columns_shows_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "PANELS", 3)
    inspection.draw(inspection.inspect(open_source(logs(tmp_path / "logs", 2))), tmp_path / "x.svg")
    assert "the first 3 of 6 columns" in (tmp_path / "x.svg").read_text()


def test_splits_are_written_apart_and_are_those_of_training(tmp_path: Path, billiards_store: Path) -> None:
    assert main(["data", "split", str(billiards_store), str(tmp_path / "out"), "--to", "parquet"]) == 0
    with Store.open(billiards_store) as store:
        for name in ("train", "validation", "test"):
            expected = [store.episode(int(i)).fingerprint for i in store.split(name)]
            assert [one.fingerprint for one in open_source(tmp_path / "out" / f"{name}.parquet").episodes()] == expected


def test_a_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspct", "x"]) == 2
    assert "did you mean 'inspect'?" in capsys.readouterr().err
    assert main(["data"]) == 0
    assert "validate" in capsys.readouterr().out

"""What is written is what is read, the layout is the documented one, and anything else is refused in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.data import store as stores
from loopwm.data.episode import Episode
from loopwm.data.store import Store, StoreMeta, write_store
from loopwm.envs.physics.billiards import Billiards
from loopwm.errors import LoopwmError, UserError
from loopwm.spaces import ActionSpec, ObservationSpec

VECTOR = ObservationSpec("vector", (3,), ("a", "b", "c"), rates=(("a", "b"),), dt=0.1)
ENTITIES = ObservationSpec("entities", (2, 3), ("a", "b", "c"))
CONTINUOUS = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
DISCRETE = ActionSpec("discrete", 4)


def random_episode(meta: StoreMeta, length: int, seed: int, terminated: bool = False) -> Episode:
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    return Episode(
        observations=normal(length + 1, *meta.observation.shape),
        actions=normal(length, meta.action.stored_size),
        rewards=normal(length),
        terminated=terminated,
        labels={name: normal(length) for name in meta.label_names},
        seed=seed,
    )


def same(left: Episode, right: Episode) -> bool:
    return (
        np.array_equal(left.observations, right.observations)
        and np.array_equal(left.actions, right.actions)
        and np.array_equal(left.rewards, right.rewards)
        and np.array_equal(left.continues, right.continues)
        and left.labels.keys() == right.labels.keys()
        and all(np.array_equal(left.labels[name], right.labels[name]) for name in left.labels)
        and (left.terminated, left.seed) == (right.terminated, right.seed)
    )


META = StoreMeta("toy", VECTOR, CONTINUOUS, ("effort",), seed=5, command="none", versions={"toy": "1"})


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Five episodes of 3, 4, 5, 6 and 7 transitions, every second one terminated."""
    path = tmp_path / "toy.h5"
    write_store(path, [random_episode(META, 3 + i, seed=i, terminated=i % 2 == 0) for i in range(5)], META)
    return path


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    observation=st.sampled_from([VECTOR, ENTITIES]),
    action=st.sampled_from([CONTINUOUS, DISCRETE]),
    label_names=st.sampled_from([(), ("effort",), ("effort", "contacts")]),
)
def test_episodes_come_back_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    observation: ObservationSpec,
    action: ActionSpec,
    label_names: tuple[str, ...],
):
    meta = StoreMeta("toy", observation, action, label_names, seed=1, command="x", versions={"a": "1"})
    episodes = [random_episode(meta, length, seed=i, terminated=bool(i % 2)) for i, length in enumerate(lengths)]
    path = tmp_path_factory.mktemp("round") / "trip.h5"
    write_store(path, iter(episodes), meta)
    with Store.open(path) as store:
        assert store.meta == meta
        assert store.ep_len.tolist() == lengths
        assert all(same(store.episode(i), episode) for i, episode in enumerate(episodes))


def test_recordings_larger_than_the_write_buffer_come_back_whole(tmp_path: Path):
    episodes = [random_episode(META, 900 + i, seed=i) for i in range(12)]
    write_store(tmp_path / "large.h5", episodes, META)
    with Store.open(tmp_path / "large.h5") as store:
        assert all(same(store.episode(i), episode) for i, episode in enumerate(episodes))
        assert store.num_transitions == sum(episode.length for episode in episodes)


def test_the_layout_is_the_documented_one(toy: Path):
    with h5py.File(toy) as file:
        columns = {name: np.asarray(file[name]) for name in ("observation", "action", "reward", "continue")}
        lengths, offsets = np.asarray(file["ep_len"]), np.asarray(file["ep_offset"])
        assert lengths.tolist() == [3, 4, 5, 6, 7]
        assert offsets.tolist() == [0, 4, 9, 15, 22]
        assert len(columns["observation"]) == 30
        episode = random_episode(META, 5, seed=2, terminated=True)
        np.testing.assert_array_equal(columns["observation"][9:15], episode.observations)
        np.testing.assert_array_equal(columns["action"][9:14], episode.actions)
        assert columns["continue"][9:14].tolist() == [1, 1, 1, 1, 0]
        for name in ("action", "reward", "continue"):
            assert not columns[name][offsets + lengths].any()
        metadata = json.loads(str(file.attrs["loopwm"]))
        assert metadata["schema_version"] == 1
        assert metadata["time_convention"] == "transition k: (o_k, a_k) -> (r_k, c_k, o_{k+1})"


def test_truncation_is_not_termination():
    cut, ended = (random_episode(META, 3, seed=0, terminated=terminated) for terminated in (False, True))
    assert cut.continues.tolist() == [1, 1, 1]
    assert ended.continues.tolist() == [1, 1, 0]


def edited(source: Path, target: Path, edit: Callable[[h5py.File], None]) -> Path:
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        edit(file)
    return target


def put(name: str, row: int | tuple[int, ...], value: float) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[name][row] = value  # type: ignore[index]

    return edit


def digest(path: Path) -> str:
    with Store.open(path) as store:
        return store.digest


def test_the_digest_follows_the_content_and_nothing_else(toy: Path, tmp_path: Path):
    moved = tmp_path / "elsewhere.h5"
    shutil.copy(toy, moved)
    assert digest(moved) == digest(toy)
    changes = {
        "observation": put("observation", (0, 0), 9.0),
        "action": put("action", (0, 0), 9.0),
        "reward": put("reward", 0, 9.0),
        "label": put("label/effort", 0, 9.0),
    }
    digests = {digest(edited(toy, tmp_path / f"{name}.h5", edit)) for name, edit in changes.items()}
    assert len(digests | {digest(toy)}) == 5


def replayed(store: Store, shift: int) -> np.ndarray:
    """Errors of the engine's o_{k+1} from (o_k, a_{k+shift}), over some transitions of the store."""
    env, errors = Billiards(), []
    for index in range(12):
        episode = store.episode(index)
        for k in range(2, episode.length - 2, 4):
            env.set_state(episode.observations[k])
            following = env.step(episode.actions[k + shift])[0]
            errors.append(np.abs(following - episode.observations[k + 1]).max())
    return np.array(errors)


def test_the_engine_confirms_the_time_convention_and_a_shift_by_one_step_breaks_it(billiards_store: Path):
    with Store.open(billiards_store) as store:
        assert replayed(store, 0).max() < 1e-3
        for shift in (-1, 1):
            assert np.median(replayed(store, shift)) > 1e-2


@pytest.mark.parametrize("name", ["action", "reward", "continue", "label/impulse"])
def test_columns_shifted_by_a_step_are_refused(billiards_store: Path, tmp_path: Path, name: str):
    def shift(file: h5py.File) -> None:
        dataset = file[name]
        assert isinstance(dataset, h5py.Dataset)
        dataset[...] = np.roll(np.asarray(dataset), 1, axis=0)

    path = edited(billiards_store, tmp_path / "shifted.h5", shift)
    with pytest.raises(UserError, match=f"breaks the time convention in '{name}'.*shifted by a step"):
        Store.open(path)


def replace(name: str, values: np.ndarray) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return edit


def metadata(**changes: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file.attrs["loopwm"] = json.dumps(json.loads(str(file.attrs["loopwm"])) | changes)

    return edit


def drop(name: str) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]

    return edit


# Row 9 is o_0 of episode 2, so row 11 is its step 2.
DAMAGES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "NaN observation": (
        put("observation", (11, 1), np.nan),
        "a NaN or an infinite number in 'observation', episode 2, step 2",
    ),
    "infinite observation": (
        put("observation", (14, 0), np.inf),
        "infinite number in 'observation', episode 2, step 5",
    ),
    "NaN action": (put("action", (9, 0), np.nan), "infinite number in 'action', episode 2, step 0"),
    "NaN label": (put("label/effort", 9, np.nan), "infinite number in 'label/effort', episode 2, step 0"),
    "other schema": (metadata(schema_version=99), "schema version 99, this loopwm reads version 1; record it again"),
    "other time": (metadata(time_convention="a_k leads to o_k"), "follows the time convention 'a_k leads to o_k'"),
    "damaged metadata": (metadata(observation={"kind": "vector"}), "damaged metadata"),
    "inconsistent metadata": (
        metadata(observation=asdict(VECTOR) | {"shape": [4]}),
        "damaged metadata .*3 feature names",
    ),
    "other space": (
        metadata(action={"kind": "discrete", "size": 3, "low": [], "high": []}),
        "'action' of",
    ),
    "wrong shape": (
        replace("observation", np.zeros((30, 4), np.float32)),
        r"'observation' of shape \(30, 4\)",
    ),
    "missing rows": (replace("reward", np.zeros(29, np.float32)), r"'reward' of shape \(29,\)"),
    "missing column": (drop("action"), "lacks the dataset 'action'"),
    "missing label": (drop("label/effort"), "lacks the dataset 'label/effort'"),
    "empty table": (replace("ep_len", np.zeros(0, np.int64)), "damaged episode table"),
    "empty episode": (put("ep_len", 1, 0), "damaged episode table"),
    "wrong offset": (put("ep_offset", 1, 5), "ep_offset does not follow from ep_len"),
    "wrong ending": (put("ep_terminated", 1, True), "breaks the time convention in 'continue'"),
    "foreign": (lambda file: file.attrs.clear(), "not a loopwm store; record one with: loopwm collect billiards --out"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused_with_the_place_and_the_remedy(toy: Path, tmp_path: Path, damage: str):
    edit, sentence = DAMAGES[damage]
    path = edited(toy, tmp_path / "damaged.h5", edit)
    with pytest.raises(UserError, match=sentence) as caught:
        Store.open(path)
    assert str(path) in str(caught.value)


def test_a_missing_store_names_the_command_that_records_one(tmp_path: Path):
    with pytest.raises(UserError, match=r"no store at .*; record one with: loopwm collect billiards --out .*none\.h5"):
        Store.open(tmp_path / "none.h5")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(toy: Path, tmp_path: Path, kept: float):
    content = toy.read_bytes()
    path = tmp_path / "truncated.h5"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"truncated\.h5 is not a readable HDF5 file.*record it again"):
        Store.open(path)


def test_something_else_than_hdf5_is_refused(tmp_path: Path):
    (tmp_path / "notes.h5").write_text("not at all\n" * 100)
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        Store.open(tmp_path / "notes.h5")
    with pytest.raises(UserError, match=r"is a folder and no store; .* loopwm data convert"):
        Store.open(tmp_path)


def test_a_flipped_bit_in_the_data_is_noticed(toy: Path, tmp_path: Path):
    content = bytearray(toy.read_bytes())
    place = content.find(random_episode(META, 3, seed=0).observations.tobytes())
    assert place > 0
    content[place + 5] ^= 1
    path = tmp_path / "flipped.h5"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        Store.open(path)


def test_an_existing_file_is_not_overwritten(toy: Path):
    before = toy.read_bytes()
    with pytest.raises(UserError, match="already exists and is not overwritten"):
        write_store(toy, [random_episode(META, 3, seed=0)], META)
    assert toy.read_bytes() == before


def test_an_interrupted_recording_leaves_nothing_behind(tmp_path: Path):
    def interrupted() -> Iterator[Episode]:
        yield random_episode(META, 5000, seed=0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "half.h5", interrupted(), META)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_hdf5_writes_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = stores._ForgivingFile.write

    def interrupted(self: stores._ForgivingFile, data: bytes) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return written(self, data)

    monkeypatch.setattr(stores._ForgivingFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "out.h5", (random_episode(META, 3, seed) for seed in range(3)), META)
    assert not list(tmp_path.iterdir())


def test_episodes_that_disagree_with_the_metadata_are_refused(tmp_path: Path):
    wrong = {
        "shape": random_episode(StoreMeta("toy", ENTITIES, CONTINUOUS, ("effort",)), 3, seed=0),
        r"actions of shape \(1,\)": random_episode(StoreMeta("toy", VECTOR, DISCRETE, ("effort",)), 3, seed=0),
        "labels": random_episode(StoreMeta("toy", VECTOR, CONTINUOUS, ("strain",)), 3, seed=0),
    }
    for reason, episode in wrong.items():
        with pytest.raises(UserError, match=f"Episode 1 has .*{reason}"):
            write_store(tmp_path / "wrong.h5", [random_episode(META, 3, seed=0), episode], META)
    with pytest.raises(UserError, match="at least one episode"):
        write_store(tmp_path / "wrong.h5", [], META)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_episode_with_numbers_that_are_not_finite_names_the_step(bad: float):
    good = random_episode(META, 6, seed=3)
    observations = good.observations.copy()
    observations[4, 1] = bad
    with pytest.raises(
        UserError, match="Step 4 of the episode with seed 3 has a NaN or an infinite number in 'observation'"
    ):
        Episode(observations, good.actions, good.rewards, False, good.labels, seed=3)


def test_an_episode_whose_columns_disagree_is_refused():
    good = random_episode(META, 6, seed=3)
    with pytest.raises(UserError, match=r"L \+ 1 observations, got 6 actions and 6"):
        Episode(good.observations[:-1], good.actions, good.rewards, False)
    with pytest.raises(UserError, match="6 actions has 5 rewards"):
        Episode(good.observations, good.actions, good.rewards[:-1], False)
    with pytest.raises(UserError, match=r"shape \(L, A\)"):
        Episode(good.observations, good.actions[:, 0], good.rewards, False)


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from loopwm.data.episode import Episode
from loopwm.data.store import StoreMeta, write_store
from loopwm.errors import LoopwmError
from loopwm.spaces import ActionSpec, ObservationSpec
meta = StoreMeta("toy", ObservationSpec("vector", (8,), tuple("abcdefgh")), ActionSpec("discrete", 2))
still = Episode(np.ones((3001, 8), np.float32), np.zeros((3000, 1), np.float32), np.zeros(3000, np.float32), False)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write_store(Path(sys.argv[1]), [still] * 40, meta)
except LoopwmError as error:
    sys.exit(f"{error.exit_code} {error}")
"""


@pytest.mark.parametrize("limit", [200, 100_000, 2_000_000])
def test_a_disk_that_takes_no_more_is_reported_and_leaves_nothing_behind(tmp_path: Path, limit: int):
    # A limit on the size of files is a disk that fills up, without the privilege to mount one.
    path = tmp_path / "full.h5"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path), str(limit)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("1 Could not write") and "free some space" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_episode_that_is_not_there_is_an_error(toy: Path):
    with Store.open(toy) as store, pytest.raises(UserError, match="5 episodes, numbered from 0; there is no 5"):
        store.episode(5)


def test_the_two_kinds_of_error_keep_their_exit_codes():
    assert (UserError.exit_code, LoopwmError.exit_code) == (2, 1)

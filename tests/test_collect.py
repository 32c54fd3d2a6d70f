"""A recording depends on its seed alone, and one that fails says why and leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from sessions import session_is_empty

from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.recorder import episode_seed
from loopwm.data.store import Store
from loopwm.envs import registry
from loopwm.envs.physics.billiards import Billiards
from loopwm.envs.registry import World, find_world, world_names
from loopwm.errors import LoopwmError, UserError


def columns(path: Path) -> dict[str, bytes]:
    with Store.open(path) as store:
        values = {name: store.read(name).tobytes() for name in store.meta.column_shapes()}
        table = {"ep_len": store.ep_len, "ep_seed": store.seeds, "ep_terminated": store.terminated}
        return values | {name: column.tobytes() for name, column in table.items()}


def test_the_recording_does_not_depend_on_the_number_of_workers(tmp_path: Path):
    for workers in (1, 2):
        config = CollectConfig(episodes=40, max_steps=12, workers=workers, seed=3)
        collect(config, tmp_path / f"{workers}.h5")
    assert columns(tmp_path / "1.h5") == columns(tmp_path / "2.h5")


def test_longer_recordings_begin_like_shorter_ones(tmp_path: Path):
    for episodes in (3, 5):
        collect(CollectConfig(episodes=episodes, max_steps=5, workers=1), tmp_path / f"{episodes}.h5")
    with Store.open(tmp_path / "3.h5") as short, Store.open(tmp_path / "5.h5") as long:
        for index in range(3):
            assert short.episode(index).fingerprint == long.episode(index).fingerprint


def test_a_stored_seed_and_its_actions_replay_the_episode(billiards_store: Path):
    env = Billiards()
    with Store.open(billiards_store) as store:
        assert len(set(store.seeds.tolist())) == store.num_episodes
        for index in range(10):
            episode = store.episode(index)
            frames = [env.reset(seed=episode.seed)[0], *(env.step(action)[0] for action in episode.actions)]
            np.testing.assert_array_equal(np.array(frames), episode.observations)


def test_actions_are_uniform_over_the_action_space(billiards_store: Path):
    with Store.open(billiards_store) as store:
        actions = np.concatenate([store.episode(i).actions for i in range(store.num_episodes)])
    assert np.abs(actions).max() <= 1.0
    counts = np.histogram(actions, bins=10, range=(-1, 1))[0]
    # The 0.999 quantile of chi-squared with 9 degrees of freedom.
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 27.9
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.06


def test_episode_seeds_are_distinct_across_recordings():
    seeds = {episode_seed(seed, index) for seed in range(20) for index in range(500)}
    assert len(seeds) == 10_000
    assert min(seeds) >= 0


def test_the_metadata_tell_how_to_record_the_same_again(tmp_path: Path):
    meta = collect(CollectConfig(episodes=2, max_steps=5, workers=1, seed=9), tmp_path / "two.h5")
    assert meta.command == "loopwm collect billiards --out two.h5 --episodes 2 --max-steps 5 --seed 9"
    assert (meta.world, meta.seed, meta.observation.dt) == ("billiards", 9, 0.25)
    assert meta.observation.names == ("x", "y", "vx", "vy", "cue")
    assert set(meta.versions) == {"python", "loopwm", "numpy", "gymnasium", "h5py", "pymunk"}
    with Store.open(tmp_path / "two.h5") as store:
        assert store.meta == meta
        assert (store.ep_len <= 5).all()


def test_progress_is_reported_episode_by_episode(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    collect(CollectConfig(episodes=4, max_steps=2, workers=1), tmp_path / "out.h5", lambda *call: calls.append(call))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_existing_recording_is_not_overwritten(tmp_path: Path):
    (tmp_path / "out.h5").write_text("precious")
    with pytest.raises(UserError, match="already exists and is not overwritten; choose another --out"):
        collect(CollectConfig(episodes=1), tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_text() == "precious"


def test_an_unknown_world_names_the_closest_one(tmp_path: Path):
    with pytest.raises(UserError, match="no world called 'biliards'; did you mean 'billiards'"):
        collect(CollectConfig(world="biliards"), tmp_path / "out.h5")
    with pytest.raises(UserError, match="choose one of: billiards"):
        find_world("xyz")
    assert world_names() == ("billiards", "billiards-pixels", "three-bodies", "fluid", "cloth", "soft-cube")


@pytest.mark.parametrize("options", [{"episodes": 0}, {"max_steps": -1}, {"steps": -1}, {"workers": -1}, {"seed": -1}])
def test_meaningless_requests_are_refused(options: dict):
    with pytest.raises(UserError, match=next(iter(options))):
        CollectConfig(**options)


class Fragile(gymnasium.Env):
    """Ends its fourth step as `failure` says."""

    def __init__(self, failure: str) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self._failure, self._steps = failure, 0

    def reset(self, *, seed=None, options=None):
        self._steps = 0
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action):
        self._steps += 1
        observation = np.zeros(2, dtype=np.float32)
        if self._steps == 4:
            if self._failure == "raises":
                raise ZeroDivisionError("the engine blew up")
            observation = {"NaN": np.full(2, np.nan), "shape": np.zeros(3), "number": np.zeros(())}[self._failure]
        return observation, 0.0, False, self._steps >= 6, {}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("raises", "ZeroDivisionError: the engine blew up"),
        ("NaN", "Step 4 of the episode with seed .* has a NaN or an infinite number in 'observation'"),
        ("shape", r"an observation has shape \(3,\), and the observation space says \(2,\)"),
        ("number", r"an observation has shape \(\), and the observation space says \(2,\)"),
    ],
)
def test_a_failing_episode_is_reported_with_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, reason: str
):
    world = World("fragile", "fails", lambda max_steps: Fragile(failure), ("a", "b"), max_steps=60)
    monkeypatch.setitem(registry._WORLDS, "fragile", lambda: world)
    sentence = rf"Recording episode 0 of fragile \(seed {episode_seed(0, 0)}\) failed: {reason}"
    with pytest.raises(LoopwmError, match=sentence) as caught:
        collect(CollectConfig(world="fragile", episodes=3, workers=1), tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == []
    # The error has to survive the way from a worker to the writer.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_discrete_action_is_stored_as_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World("cartpole", "upstream", lambda max_steps: gymnasium.make("CartPole-v1"), ("x", "v", "angle", "rate"))
    monkeypatch.setitem(registry._WORLDS, "cartpole", lambda: world)
    collect(CollectConfig(world="cartpole", episodes=5, max_steps=200, workers=1), tmp_path / "cartpole.h5")
    with Store.open(tmp_path / "cartpole.h5") as store:
        assert store.meta.action.kind == "discrete"
        actions = np.concatenate([store.episode(i).actions for i in range(5)])
        assert actions.shape[1:] == (1,)
        assert set(actions.ravel().tolist()) == {0.0, 1.0}
        assert store.terminated.all()


def test_a_worker_that_dies_is_an_error_and_leaves_nothing_behind(tmp_path: Path):
    def kill_one(done: int, total: int) -> None:
        if done == 1:
            multiprocessing.active_children()[0].kill()

    with pytest.raises(LoopwmError, match=r"worker recording billiards died.*nothing was written") as caught:
        collect(CollectConfig(episodes=2000, workers=2), tmp_path / "out.h5", kill_one)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.errors import LoopwmError

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        collect(CollectConfig(episodes=2000, workers=2), Path(sys.argv[1]) / "out.h5")
    except LoopwmError as error:
        sys.exit(f"{error.exit_code} {error}")
"""


@pytest.mark.skipif(os.name != "posix", reason="limits on file sizes are POSIX")
def test_a_disk_that_fills_up_stops_the_workers_with_one_sentence(tmp_path: Path):
    # A limit on the size of files is a disk that fills up, without the privilege to mount one.
    (tmp_path / "script.py").write_text(FULL_DISK)
    (tmp_path / "recordings").mkdir()
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "recordings")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("1 Could not write") and len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "recordings").iterdir()) == []


LONG_RECORDING = """
import sys
from pathlib import Path
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig

def show(done, total):
    if done == 1:
        print("recording", flush=True)

if __name__ == "__main__":
    collect(CollectConfig(episodes=200000, workers=2), Path(sys.argv[1]) / "out.h5", show)
"""


def start_long_recording(folder: Path) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(LONG_RECORDING)
    (folder / "recordings").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(folder / "script.py"), str(folder / "recordings")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "recording\n"
    return process


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_ctrl_c_stops_every_worker_and_leaves_nothing_behind(tmp_path: Path):
    process = start_long_recording(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert list((tmp_path / "recordings").iterdir()) == []
    assert session_is_empty(process.pid)


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_workers_do_not_outlive_a_killed_recording(tmp_path: Path):
    process = start_long_recording(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    assert session_is_empty(process.pid)
    assert not (tmp_path / "recordings" / "out.h5").exists()


def test_recording_does_not_load_torch():
    script = "import sys, loopwm.data.collect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


ENGINE_IN_A_WORKER = """
from loopwm.data.collect import _start_worker
_start_worker()
import os, torch
print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("chosen", "threads"), [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")])
def test_an_engine_in_a_worker_takes_one_thread_unless_told_otherwise(chosen: dict[str, str], threads: str):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    command = [sys.executable, "-c", ENGINE_IN_A_WORKER]
    answer = subprocess.run(command, env=environment | chosen, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [threads, "PASSIVE"]

"""Recording a world with random actions, by several processes, into one store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import multiprocessing
import os
import platform
import shlex
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np

from loopwm.data.config import CollectConfig
from loopwm.data.episode import Episode, is_image
from loopwm.data.store import StoreMeta, write_store
from loopwm.envs.registry import World, find_world
from loopwm.errors import LoopwmError, UserError
from loopwm.files import refuse_existing
from loopwm.interrupts import end_with_parent
from loopwm.spaces import ActionSpec, ObservationSpec

_EPISODES_PER_TASK = 16


def collect(config: CollectConfig, out: Path, progress: Callable[[int, int], None] | None = None) -> StoreMeta:
    """Record episodes of uniformly random actions into a new store at `out`.

    Episode i is a function of (seed, i), so the store does not depend on the number of workers. With more than one
    worker, processes are spawned: a script that calls this needs the usual `if __name__ == "__main__":` guard.

    Args:
        config: what to record.
        out: the new store; appears when it is complete and not before.
        progress: called after each episode with (episodes done, episodes in total), or with transitions where
            `config.steps` counts them.

    Raises:
        UserError: an unknown world, a world loopwm cannot store, or `out` exists.
        LoopwmError: an episode failed, a worker died, or the disk refused.
    """
    out = Path(out)
    refuse_existing(out, "choose another --out or remove it")
    world = find_world(config.world)
    config = limited(config, world)
    meta = describe(world, config, out)
    # Closed here whatever happens: left to the garbage collector, it would stop its workers from any thread, any time.
    with contextlib.closing(_record_all(config, _per_task(meta, config))) as episodes:
        write_store(out, _counted(episodes, config, progress), meta)
    return meta


def limited(config: CollectConfig, world: World) -> CollectConfig:
    """With the world's own limit where none was given.

    Raises:
        UserError: there is none either, and a random episode might never end.
    """
    limit = config.max_steps or world.max_steps
    if not limit:
        raise UserError(f"{world.name} never cuts an episode short; say after how many transitions with --max-steps.")
    return replace(config, max_steps=limit)


def _counted(
    episodes: Iterable[Episode], config: CollectConfig, progress: Callable[[int, int], None] | None
) -> Iterator[Episode]:
    steps = 0
    for done, episode in enumerate(episodes, start=1):
        yield episode
        steps += episode.length
        if progress is not None:
            progress(*((min(steps, config.steps), config.steps) if config.steps else (done, config.episodes)))
        if config.steps and steps >= config.steps:
            return


def describe(world: World, config: CollectConfig, out: Path) -> StoreMeta:
    """The metadata of a recording of `world`."""
    # Closed at once: one that draws holds a part of the graphics card, which the workers want.
    with contextlib.closing(world.make(config.max_steps)) as env:
        seen, act = env.observation_space, env.action_space
    packages = ("loopwm", "numpy", "gymnasium", "h5py", *world.packages)
    return StoreMeta(
        world=world.name,
        observation=ObservationSpec.from_gymnasium(seen, world.features, world.rates, world.dt),
        action=ActionSpec.from_gymnasium(act),
        label_names=world.labels,
        seed=config.seed,
        command=f"loopwm collect {config.world} --out {shlex.quote(out.name)} --episodes {config.episodes} "
        + (f"--steps {config.steps} " if config.steps else "")
        + f"--max-steps {config.max_steps} --seed {config.seed}",
        versions={"python": platform.python_version()} | {name: _version(name) for name in packages},
    )


def record_episode(env: gymnasium.Env, world: World, seed: int, max_steps: int) -> Episode:
    """One episode of `env`, reset with `seed`, under uniformly random actions."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, labels = [observation], [], [], []
    terminated = truncated = False
    while not (terminated or truncated) and len(actions) < max_steps:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        actions.append(np.atleast_1d(action))
        rewards.append(reward)
        labels.append([info[name] for name in world.labels])
    columns = np.array(labels, dtype=np.float32).reshape(len(actions), len(world.labels))
    return Episode(
        observations=_stacked(observations),
        actions=np.array(actions, dtype=np.float32),
        rewards=np.array(rewards, dtype=np.float32),
        terminated=bool(terminated),
        labels={name: columns[:, i] for i, name in enumerate(world.labels)},
        seed=seed,
    )


def _stacked(observations: list[np.ndarray]) -> np.ndarray:
    """(L+1, *S): images as they are, all else in single precision."""
    stacked = np.array(observations)
    return stacked if is_image(stacked) else stacked.astype(np.float32)


def episode_seed(seed: int, index: int) -> int:
    """The seed of episode `index`: a 63-bit integer that no other (seed, index) is likely to share."""
    state = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def _record_range(config: CollectConfig, first: int, last: int) -> list[Episode]:
    """Episodes [first, last); runs in a worker."""
    world = find_world(config.world)
    episodes = []
    with contextlib.closing(world.make(config.max_steps)) as env:
        for index in range(first, last):
            seed = episode_seed(config.seed, index)
            try:
                episodes.append(record_episode(env, world, seed, config.max_steps))
            except Exception as error:
                # An engine's exceptions may not survive the trip between processes; the seed is what reproduces them.
                reason = str(error) if isinstance(error, LoopwmError) else f"{type(error).__name__}: {error}"
                kind = UserError if isinstance(error, UserError) else LoopwmError
                raise kind(f"Recording episode {index} of {config.world} (seed {seed}) failed: {reason}") from None
    return episodes


def _per_task(meta: StoreMeta, config: CollectConfig) -> int:
    """Episodes that a worker hands over together: few where they are images, which would fill the memory."""
    return max(1, min(_EPISODES_PER_TASK, meta.rows_at_once // (4 * config.max_steps)))


def _record_all(config: CollectConfig, per_task: int) -> Generator[Episode, None, None]:
    """Every episode in order, whichever worker made it."""
    edges = [*range(0, config.episodes, per_task), config.episodes]
    tasks = list(itertools.pairwise(edges))
    workers = min(config.workers or os.cpu_count() or 1, len(tasks))
    if workers == 1:
        for first, last in tasks:
            yield from _record_range(config, first, last)
        return
    # Spawned, not forked: a forked copy of a process that runs torch threads may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        waiting: deque[Future[list[Episode]]] = deque()
        remaining = iter(tasks)
        # A few tasks ahead of the writer: enough to keep workers busy, little to hold in memory.
        for task in itertools.islice(remaining, 4 * workers):
            waiting.append(pool.submit(_record_range, config, *task))
        while waiting:
            yield from waiting.popleft().result()
            for task in itertools.islice(remaining, 1):
                waiting.append(pool.submit(_record_range, config, *task))
    except BrokenProcessPool as error:
        raise LoopwmError(
            f"A worker recording {config.world} died without a word (killed, or out of memory); nothing was written, "
            "try again with fewer --workers."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; only the one that writes should act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

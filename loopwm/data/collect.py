"""Recording a world, by several processes, into one store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import multiprocessing
import os
import pickle
import platform
import shlex
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from loopwm.data.config import CollectConfig
from loopwm.data.episode import Episode
from loopwm.data.policies import policy_for
from loopwm.data.recorder import Recorder
from loopwm.data.store import StoreMeta, write_store
from loopwm.envs.registry import World, find_world
from loopwm.errors import LoopwmError, UserError
from loopwm.files import refuse_existing
from loopwm.interrupts import Advance, end_with_parent, stopping_between_units
from loopwm.spaces import ActionSpec, ObservationSpec

_EPISODES_PER_TASK = 16


def collect(
    config: CollectConfig,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    world: World | None = None,
) -> StoreMeta:
    """Record episodes into a new store at `out`.

    Episode i is a function of (seed, i), so the store does not depend on the number of workers. With more than one
    worker, processes are spawned: a script that calls this needs the usual `if __name__ == "__main__":` guard.

    Args:
        config: what to record.
        out: the new store; appears when it is complete and not before.
        progress: called after each episode with (episodes done, episodes in total), or with transitions where
            `config.steps` counts them.
        world: a world of one's own, from `own_world`; `config.world` is looked up when left out.

    Raises:
        UserError: an unknown world, a world loopwm cannot store, a policy that cannot be found, or `out` exists.
        LoopwmError: an episode failed, a worker died, or the disk refused.
    """
    out = Path(out)
    refuse_existing(out, "choose another --out or remove it")
    own = None if world is None else _packed(world, config.workers)
    world = world or find_world(config.world)
    config = limited(replace(config, world=world.name), world)
    policy_for(config, world)
    meta = describe(world, config, out)
    # Closed here whatever happens: left to the garbage collector, it would stop its workers from any thread, any time.
    with (
        stopping_between_units(progress or (lambda done, total: None)) as advance,
        contextlib.closing(_record_all(config, world, own, _per_task(meta, config))) as episodes,
    ):
        write_store(out, _counted(episodes, config, advance), meta)
    return meta


def _packed(world: World, workers: int) -> bytes | None:
    """A world of one's own as it travels to workers; None where there are none."""
    if workers == 1:
        return None
    try:
        return pickle.dumps(world)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"{world.name} cannot be handed to recording processes ({error}): define what makes it at the top of a "
            "module, or record with workers=1."
        ) from error


def limited(config: CollectConfig, world: World) -> CollectConfig:
    """With the world's own limit where none was given.

    Raises:
        UserError: there is none either, and a random episode might never end.
    """
    limit = config.max_steps or world.max_steps
    if not limit:
        raise UserError(f"{world.name} never cuts an episode short; say after how many transitions with --max-steps.")
    return replace(config, max_steps=limit)


def _counted(episodes: Iterable[Episode], config: CollectConfig, advance: Advance) -> Iterator[Episode]:
    steps = 0
    for done, episode in enumerate(episodes, start=1):
        yield episode
        steps += episode.length
        advance(*((min(steps, config.steps), config.steps) if config.steps else (done, config.episodes)))
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
        command=recorded_by(config, out),
        versions={"python": platform.python_version()} | {name: _version(name) for name in packages},
    )


def recorded_by(config: CollectConfig, out: Path) -> str:
    """The command that makes a recording."""
    return (
        f"loopwm collect {config.world} --out {shlex.quote(out.name)} --episodes {config.episodes} "
        + (f"--steps {config.steps} " if config.steps else "")
        + f"--max-steps {config.max_steps} --seed {config.seed}"
        + (f" --policy {shlex.quote(config.policy)}" if config.policy != "random" else "")
        + (f" --hold {config.hold}" if config.hold > 1 else "")
    )


@lru_cache(maxsize=1)
def _recorder(config: CollectConfig, world: bytes | None) -> Recorder:
    """Kept from task to task: in a worker, making the world again would take longer than its episodes."""
    return Recorder(config, find_world(config.world) if world is None else pickle.loads(world))


def _record_range(config: CollectConfig, world: bytes | None, first: int, last: int) -> list[Episode]:
    """Episodes [first, last); runs in a worker."""
    recorder = _recorder(config, world)
    return [recorder.record(index) for index in range(first, last)]


def _per_task(meta: StoreMeta, config: CollectConfig) -> int:
    """Episodes that a worker hands over together: few where they are images, which would fill the memory."""
    return max(1, min(_EPISODES_PER_TASK, meta.rows_at_once // (4 * config.max_steps)))


def _record_all(
    config: CollectConfig, world: World, own: bytes | None, per_task: int
) -> Generator[Episode, None, None]:
    """Every episode in order, whichever worker made it."""
    edges = [*range(0, config.episodes, per_task), config.episodes]
    tasks = list(itertools.pairwise(edges))
    workers = min(config.workers or os.cpu_count() or 1, len(tasks))
    if workers == 1:
        recorder = Recorder(config, world)
        with contextlib.closing(recorder.env):
            yield from map(recorder.record, range(config.episodes))
        return
    # Spawned, not forked: a forked copy of a process that runs torch threads may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        waiting: deque[Future[list[Episode]]] = deque()
        remaining = iter(tasks)
        # A few tasks ahead of the writer: enough to keep workers busy, little to hold in memory.
        for task in itertools.islice(remaining, 4 * workers):
            waiting.append(pool.submit(_record_range, config, own, *task))
        while waiting:
            yield from waiting.popleft().result()
            for task in itertools.islice(remaining, 1):
                waiting.append(pool.submit(_record_range, config, own, *task))
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
    # Every core has a worker already. An engine on OpenMP, such as torch, reads these when it is imported, and that is
    # when the world is made. What the user has set stays.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

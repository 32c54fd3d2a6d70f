"""Recording speed over that of the bare loop around the engine: steps alone, nothing kept, in one process.

    python benchmarks/recording_speed.py billiards gym:Pendulum-v1

Both run in turns and the same episodes; medians over rounds, and the spread of the ratio.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import gymnasium
import numpy as np
import torch
import tyro

from loopwm.data.collect import describe, limited
from loopwm.data.config import CollectConfig
from loopwm.data.meta import StoreMeta
from loopwm.data.recorder import Recorder, episode_seed
from loopwm.data.store import write_store
from loopwm.envs.registry import find_world
from loopwm.evaluate.speed import processor
from loopwm.files import write_json
from loopwm.train.journal import versions


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    worlds: Annotated[tuple[str, ...], tyro.conf.Positional] = ("billiards", "gym:CartPole-v1", "gym:Pendulum-v1")
    """Names of worlds, as of `loopwm collect`."""
    seconds: float = 2.0
    """About how long one turn of the bare loop takes."""
    rounds: int = 7
    """Turns of each."""
    out: Path | None = None
    """File for the numbers as JSON."""


@dataclass(frozen=True)
class Speed:
    """One world: transitions per second of processor time, and their ratio to those of the bare loop."""

    world: str
    recorded_per_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int


def bare(env: gymnasium.Env, config: CollectConfig, episodes: int) -> int:
    """Play `episodes` with random actions, keep nothing, return the transitions."""
    transitions = 0
    for index in range(episodes):
        seed = episode_seed(config.seed, index)
        env.action_space.seed(seed)
        env.reset(seed=seed)
        over, taken = False, 0
        while not over and taken < config.max_steps:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over, taken = terminated or truncated, taken + 1
        transitions += taken
    return transitions


def recorded(recorder: Recorder, meta: StoreMeta, episodes: int) -> None:
    """Play and write the same ones."""
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder) / "store.h5", map(recorder.record, range(episodes)), meta)


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time, which others on the machine do not lengthen."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compared(name: str, arguments: Arguments) -> Speed:
    """One world."""
    world = find_world(name)
    config = limited(CollectConfig(name, workers=1), world)
    recorder, meta = Recorder(config, world), describe(world, config, Path("store.h5"))
    env, episodes = world.make(config.max_steps), 1
    while timed(partial(bare, env, config, episodes)) < arguments.seconds / 2:
        episodes *= 2
    turns = [
        (timed(partial(bare, env, config, episodes)), timed(partial(recorded, recorder, meta, episodes)))
        for _ in range(arguments.rounds)
    ]
    ratios = np.array([alone / kept for alone, kept in turns])
    rate = bare(env, config, episodes) / np.median([kept for _, kept in turns])
    low, high = np.quantile(ratios, (0.1, 0.9))
    return Speed(name, float(rate), float(np.median(ratios)), float(low), float(high), len(ratios))


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    found = []
    for name in arguments.worlds:
        found.append(one := compared(name, arguments))
        print(
            f"{name:<24} {one.recorded_per_s:>10,.0f} transitions/s recorded, {one.ratio:.2f} of the bare loop's speed "
            f"({one.ratio_low:.2f} to {one.ratio_high:.2f} over {one.rounds} rounds)"
        )
    if arguments.out is not None:
        command = shlex.join(["python", "benchmarks/recording_speed.py", *sys.argv[1:]])
        made = {"command": command, "versions": versions(), "processor": processor(torch.device("cpu"))}
        write_json(arguments.out, made | {"worlds": [asdict(one) for one in found]})


if __name__ == "__main__":
    main()

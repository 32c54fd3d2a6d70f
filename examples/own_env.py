"""From an environment of your own to a trained model and a plot of its error against the horizon.

    python examples/own_env.py --folder runs/own-env

Takes about four minutes on two cores. `--updates 20 --episodes 60` shows in seconds that it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np
import tyro

from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.envs.gymnasium_worlds import own_world
from loopwm.evaluate.config import EvaluateConfig
from loopwm.evaluate.evaluation import Evaluation, evaluate
from loopwm.presets import preset
from loopwm.progress import TerminalProgress
from loopwm.train.runs import train


class Juggler(gymnasium.Env):
    """A ball falls onto a paddle that you move up and down. It flies freely, then bounces: easy steps and hard ones."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.height, self.speed, self.paddle = self.np_random.uniform([0.5, -1.0, -0.2], [2.0, 1.0, 0.2])
        return self._seen(), {}

    def step(self, action):
        bounces, lift, dt = 0, 2.0 * float(action[0]), 0.005
        for _ in range(40):
            self.paddle = float(np.clip(self.paddle + dt * lift, -0.5, 0.5))
            self.height, self.speed = self.height + dt * self.speed, self.speed - dt * 9.81
            if self.height < self.paddle and self.speed < lift:
                self.height, self.speed, bounces = self.paddle, lift + 0.9 * (lift - self.speed), bounces + 1
        return self._seen(), self.height, self.height > 6, False, {"bounces": bounces}

    def _seen(self):
        return np.array([self.height, self.speed, self.paddle], np.float32)


@dataclass(frozen=True)
class Arguments:
    """How much."""

    folder: Path = Path("runs/own-env")
    """Where everything goes."""
    episodes: int = 600
    """To record."""
    updates: int = 300
    """To train for."""


def plot(evaluation: Evaluation, out: Path) -> None:
    """Open-loop error against the horizon, beside simple controls."""
    from matplotlib.figure import Figure

    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    for curve in evaluation.horizon:
        mean = [interval.mean for interval in curve.error]
        axes.plot(range(1, len(mean) + 1), mean, "-" if curve.kind == "model" else "--", label=curve.name)
    axes.set(xlabel="steps ahead", ylabel="normalised squared error", yscale="log")
    axes.legend()
    figure.savefig(out, dpi=150)


def main(arguments: Arguments) -> None:
    folder = arguments.folder
    recording, run = folder / "juggler.h5", folder / "run"
    # These are the lines: an environment, a recording, a configuration, a trained model.
    world = own_world(Juggler, labels=("bounces",), max_steps=50)
    with TerminalProgress("recording", "episode") as progress:
        collect(CollectConfig(episodes=arguments.episodes, workers=1), recording, progress.advance, world)
    config = preset("debug" if arguments.updates < 100 else "worlds").config
    config = replace(config, data=recording, train=replace(config.train, updates=arguments.updates))
    with TerminalProgress("training", "update") as progress:
        train(config, run, progress)
    evaluation = evaluate(run, config=EvaluateConfig(horizon=20, rollouts=300, transitions=2000, stability_steps=100))
    plot(evaluation, folder / "horizon.png")
    print(f"Written: {folder / 'horizon.png'}; try: loopwm report {run} --out {folder / 'report'}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))

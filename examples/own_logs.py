"""From logs of your own to a trained model and a plot of its error against the horizon.

    python examples/own_logs.py --folder runs/own-logs

Takes about three minutes on two cores. `--updates 20 --episodes 60` shows in seconds that it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from loopwm.data.formats.recording import as_store
from loopwm.evaluate.config import EvaluateConfig
from loopwm.evaluate.evaluation import Evaluation, evaluate
from loopwm.presets import preset
from loopwm.progress import TerminalProgress
from loopwm.train.runs import train


@dataclass(frozen=True)
class Arguments:
    """How much."""

    folder: Path = Path("runs/own-logs")
    """Where everything goes."""
    episodes: int = 600
    """To log."""
    updates: int = 300
    """To train for."""


def log_flights(folder: Path, episodes: int) -> None:
    """What your own program would have done: a drone that hangs on to a height, in gusts, logged as arrays."""
    folder.mkdir(parents=True)
    for number in range(episodes):
        generator = np.random.default_rng(number)
        height, speed, seen, acted, gusts = generator.uniform(0.5, 3.0), 0.0, [], [], []
        for _ in range(50):
            seen.append([height, speed])
            acted.append([np.clip(1.5 - height - 0.5 * speed + generator.normal(0, 0.5), -1, 1)])
            gusts.append(float(height > 2.0))  # there is wind up there, and a floor down here
            speed += 0.1 * (4.0 * acted[-1][0] - 0.8 * speed * abs(speed) - 3.0 * gusts[-1])
            height += 0.1 * speed
            if height < 0.0:
                height, speed = -0.5 * height, -0.5 * speed
        seen.append([height, speed])
        np.savez(folder / f"flight{number:04d}.npz", observations=seen, actions=acted, gust=gusts)


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
    logs, run = arguments.folder / "flights", arguments.folder / "run"
    log_flights(logs, arguments.episodes)
    # These are the lines: logs, a configuration, a trained model.
    config = preset("debug" if arguments.updates < 100 else "worlds").config
    data = as_store(logs, print, arguments.folder)
    config = replace(config, data=data, train=replace(config.train, updates=arguments.updates))
    with TerminalProgress("training", "update") as progress:
        train(config, run, progress)
    evaluation = evaluate(run, config=EvaluateConfig(horizon=20, rollouts=300, transitions=2000, stability_steps=100))
    plot(evaluation, arguments.folder / "horizon.png")
    print(f"Written: {arguments.folder / 'horizon.png'}; try: loopwm data inspect {logs}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))

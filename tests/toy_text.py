"""A text world small enough to be learned in seconds: two rooms, a box, and a counter that counts when it is read."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from loopwm.model.config import LoopConfig, ModelConfig, TextConfig
from loopwm.presets import RunConfig, preset
from loopwm.text.recording import TextEpisode, TextManifest, write_recording

ROOMS = ("kitchen", "cellar")
ACTIONS = ("go", "look", "open box", "close box", "read counter")


def play(number: int, split: str, length: int = 9) -> TextEpisode:
    """One episode: a function of its number."""
    dice = random.Random(number)
    room, closed, count = dice.randrange(2), True, dice.randrange(5)
    initial = f"You start in the {ROOMS[room]}. The counter says {count}."
    observations, actions, scores = [f"You are in the {ROOMS[room]}."], [], [0.0]
    for _ in range(length):
        action = dice.choice(ACTIONS)
        if action == "go":
            room = 1 - room
        if action.endswith("box"):
            closed = action == "close box"
        if action == "read counter":
            count += 1
        answers = {
            "go": f"You move to the {ROOMS[room]}.",
            "look": f"This room is called the {ROOMS[room]}. The box is {'closed' if closed else 'open'}.",
            "read counter": f"The counter says {count}.",
        }
        observations.append(answers.get(action, f"The box is now {'closed' if closed else 'open'}."))
        actions.append(action)
        scores.append(float(count))
    return TextEpisode(
        tuple(observations), tuple(actions), tuple(scores), dice.random() < 0.5, f"toy/{number}", "Find", split, "gold",
        "Your task is to read the counter.", initial, seed=number,
    )  # fmt: skip


def episodes(training: int = 40, validation: int = 12) -> list[TextEpisode]:
    """Episodes of both splits, lengths from 3 to 11."""
    whole = training + validation
    return [play(k, "train" if k < training else "validation", 3 + k % 9) for k in range(whole)]


def record(path: Path, training: int = 40, validation: int = 12) -> Path:
    """A recording of them."""
    write_recording(path, episodes(training, validation), TextManifest("scienceworld", "toy"))
    return path


def tiny(data: Path, updates: int = 6, **train_fields: object) -> RunConfig:
    """A run on them that takes seconds."""
    config = preset("text").config
    text = TextConfig(encoder=1, decoder=2)
    model = ModelConfig(width=32, heads=2, mlp_ratio=2, tokens=4, loop=LoopConfig(mu=3, phases=3), text=text)
    train = replace(
        config.train, updates=updates, batch=8, window=6, precision="float32", compile=False, log_every=2,
        validate_every=updates, **train_fields,
    )  # fmt: skip
    return replace(config, data=data, model=model, optim=replace(config.optim, lr=1e-2, warmup=2), train=train)

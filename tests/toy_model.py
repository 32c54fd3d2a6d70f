"""A small model of the text world of toy_text.py, and windows of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from toy_text import episodes

from loopwm.data.windows import Windows
from loopwm.model.config import LoopConfig, ModelConfig, TextConfig
from loopwm.model.text.head import Targets
from loopwm.model.world_model import WorldModel
from loopwm.text.corpus import TextCorpus, text_windows
from loopwm.text.recording import TextManifest
from loopwm.train.text import Unrolled, unrolled, written

CORPUS = TextCorpus.of(episodes(), TextManifest("scienceworld", "toy"))
SMALL = ModelConfig(width=24, heads=2, mlp_ratio=2, tokens=3, loop=LoopConfig(mu=2, phases=2))
EVERYTHING = ("copy", "bottleneck")


def make(head: str = "copy", follow: int = TextConfig.follow, guided: bool = False, **fields: object) -> WorldModel:
    """`guided` turns on all that a head which copies can be told besides."""
    torch.manual_seed(0)
    told = {"trust": guided, "touched": guided, "expect": guided}
    text = TextConfig(encoder=1, decoder=2, head=head, follow=follow, heading=2, **told)  # type: ignore[arg-type]
    config = replace(SMALL, text=text, **fields)  # type: ignore[arg-type]
    model = WorldModel(config, CORPUS.observation, CORPUS.action, CORPUS.statistics(CORPUS.split("train")))
    with torch.no_grad():
        # As a trained model is: nothing is left at a start where it has no effect.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def sample(batch: int = 6, length: int = 5) -> Windows:
    """Windows of the longest episodes; two of three are told the initial state, most of these with a past."""
    start, told = np.array([6, 4, 5, 0, 3, 6]), np.array([True, False, True, True, False, True])
    these = np.arange(batch) % 6
    return text_windows(CORPUS, 8 + 9 * (np.arange(batch) % 4), start[these], length, told[these])


def likelihood(model: WorldModel, windows: Windows, visible: torch.Tensor) -> tuple[Unrolled, Targets]:
    found = unrolled(model, windows, visible)
    return found, written(model, windows, found, windows.labels["valid"])

"""How well the summary of an imagined latent tells what will be seen, without the decoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from loopwm.evaluate.scores import Array, Scorer
from loopwm.evaluate.segments import Segments
from loopwm.model.readout import Readout
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class SummaryErrors:
    """The read-out of g_w(h_k) against o_{k+1}, per transition of open-loop segments; all (B, K), NaN past the end.

    Attributes:
        observation: normalised mean squared error, as of decoded predictions.
        features: name of a feature that changes -> mean squared error over entities, environment units squared.
        strangeness: `Readout.strangeness` of the summary, known before the truth is.
    """

    observation: Array
    features: dict[str, Array]
    strangeness: Array


def summary_errors(model: WorldModel, segments: Segments, *, batch: int = 512) -> SummaryErrors:
    """Imagine every segment from its o_0 and read the summaries on the way.

    Raises:
        UserError: the model has no summary head, or its encoder cannot be read back.
    """
    readout = Readout(model)
    read, strange = [], []
    for first in range(0, len(segments), batch):
        part = segments.rows(slice(first, first + batch))
        start, actions = (torch.as_tensor(a, device=model.device) for a in (part.observations[:, 0], part.actions))
        with torch.inference_mode():
            summary = model.summary(model.imagine(actions, observation=start))
            read.append(readout.observation(summary).cpu().double().numpy())
            strange.append(readout.strangeness(summary).cpu().double().numpy())
    scorer, seen, target = Scorer.of(model), np.concatenate(read), segments.observations[:, 1:]
    squared = (seen - target) ** 2
    if model.observation.kind == "entities":
        squared = squared.mean(axis=-2)
    names = model.observation.names
    return SummaryErrors(
        observation=segments.masked(scorer.normalised_error(seen, target)),
        features={names[i]: segments.masked(squared[..., i]) for i in np.flatnonzero(scorer.changing)},
        strangeness=segments.masked(np.concatenate(strange)),
    )

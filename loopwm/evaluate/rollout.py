"""A model's predictions on recorded segments: step by step with the truth in view, and with eyes shut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from loopwm.evaluate.controls import Control
from loopwm.evaluate.scores import Array, Scorer
from loopwm.evaluate.segments import Segments
from loopwm.model.config import ExitConfig
from loopwm.model.heads import Prediction
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class StepErrors:
    """Errors per transition of segments, all (B, K), NaN where the episode was over.

    Attributes:
        observation: normalised mean squared error.
        groups: name -> mean squared error per coordinate in environment units squared.
        reward: squared error.
        continue_probability: predicted probability that the episode goes on.
        loops: loops made; NaN also for a control.
        nonfinite: predicted numbers that are NaN or infinite, among the transitions that count.
    """

    observation: Array
    groups: dict[str, Array]
    reward: Array
    continue_probability: Array
    loops: Array
    nonfinite: int


def one_step(
    model: WorldModel,
    segments: Segments,
    num_loops: int | None = None,
    *,
    batch: int = 512,
    trace: Trace | None = None,
    exit: ExitConfig | None = None,
) -> StepErrors:
    """Errors with every true observation in view: o_{k+1} predicted from o_0..o_k and a_0..a_k.

    Over long segments this is the observation-encoder floor of `open_loop`: the error of a rollout that never drifts.

    Args:
        num_loops: T; the model's default when None.
        batch: segments per forward pass; bounds memory and changes nothing else.
        trace: collects loops and residuals; needs all segments to fit one batch.
        exit: lets a transition stop before T.
    """
    if trace is not None and len(segments) > batch:
        raise ValueError(f"A trace covers one batch; {len(segments)} segments were given and batch={batch}.")
    return _errors(model, segments, num_loops, batch, exit, blind=False, trace=trace)


def open_loop(
    model: WorldModel,
    segments: Segments,
    num_loops: int | None = None,
    *,
    batch: int = 512,
    exit: ExitConfig | None = None,
) -> StepErrors:
    """Errors with only o_0 in view: o_{k+1} imagined from o_0 and a_0..a_k. Arguments as in `one_step`."""
    return _errors(model, segments, num_loops, batch, exit, blind=True, trace=None)


def control_errors(control: Control, segments: Segments, scorer: Scorer) -> StepErrors:
    """Open-loop errors of a control, which predicts observations only; reward and continue are NaN."""
    nothing = np.full(segments.valid.shape, np.nan)
    predicted = control.predict(segments.observations[:, 0], segments.actions)
    return _score(scorer, segments, predicted, nothing, nothing, nothing)


def imagined_observations(
    model: WorldModel, segments: Segments, num_loops: int | None = None, exit: ExitConfig | None = None
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Open-loop predictions of o_1..o_K, (B, K, *S) in environment units, and the loops (B, K) spent on each."""
    trace = Trace()
    observation = _predict(model, segments, num_loops, exit, blind=True, trace=trace).observation
    return observation.cpu().double().numpy(), trace.loops.numpy()


def _errors(
    model: WorldModel,
    segments: Segments,
    num_loops: int | None,
    batch: int,
    exit: ExitConfig | None,
    blind: bool,
    trace: Trace | None,
) -> StepErrors:
    scorer, parts = Scorer.of(model), []
    for first in range(0, len(segments), batch):
        part = segments.rows(slice(first, first + batch))
        # Without an exit every transition makes the loops asked for, and watching them would only cost time.
        watched = Trace() if trace is None and exit is not None else trace
        prediction = _predict(model, part, num_loops, exit, blind, watched)
        loops = torch.full(part.valid.shape, num_loops or model.default_loops) if watched is None else watched.loops
        arrays = (prediction.observation, prediction.reward, prediction.continue_probability, loops)
        parts.append(_score(scorer, part, *(array.cpu().double().numpy() for array in arrays)))
    return StepErrors(
        observation=np.concatenate([part.observation for part in parts]),
        groups={name: np.concatenate([part.groups[name] for part in parts]) for name in parts[0].groups},
        reward=np.concatenate([part.reward for part in parts]),
        continue_probability=np.concatenate([part.continue_probability for part in parts]),
        loops=np.concatenate([part.loops for part in parts]),
        nonfinite=sum(part.nonfinite for part in parts),
    )


def _predict(
    model: WorldModel,
    segments: Segments,
    num_loops: int | None,
    exit: ExitConfig | None,
    blind: bool,
    trace: Trace | None,
) -> Prediction:
    observations, actions = (
        torch.as_tensor(array, device=model.device) for array in (segments.observations[:, :-1], segments.actions)
    )
    with torch.inference_mode():
        if blind:
            start = observations[:, 0]
            latents = model.imagine(actions, observation=start, num_loops=num_loops, exit=exit, trace=trace)
        else:
            latents = model.observe(observations, actions, num_loops=num_loops, exit=exit, trace=trace)
        return model.decode(latents)


def _score(
    scorer: Scorer, segments: Segments, observation: Array, reward: Array, probability: Array, loops: Array
) -> StepErrors:
    target = segments.observations[:, 1:]
    finite = np.isfinite(observation[segments.valid])
    return StepErrors(
        observation=segments.masked(scorer.normalised_error(observation, target)),
        groups={name: segments.masked(scorer.group_error(observation, target, name)) for name in scorer.groups},
        reward=segments.masked((reward - segments.rewards) ** 2),
        continue_probability=segments.masked(probability),
        loops=segments.masked(loops),
        nonfinite=int(finite.size - finite.sum()),
    )

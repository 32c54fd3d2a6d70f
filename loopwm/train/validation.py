"""A quick look at the validation episodes during training."""

from __future__ import annotations

import torch

from loopwm.data.windows import Windows
from loopwm.model.config import ExitConfig
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.train.losses import observation_errors
from loopwm.train.text import validate_text


@torch.no_grad()
def validate(
    model: WorldModel, windows: Windows, device: torch.device, exit: ExitConfig | None = None, most: int = 512
) -> dict[str, float]:
    """Normalised squared error over the features that change.

    Args:
        exit: look a second time, with rows that leave early.

    Returns:
        `one_step`: each observation predicted from the one before it, with nothing carried over;
        `open_loop`: the whole window imagined from its leading observation, averaged over its steps;
        where one observation does not tell enough, as an image, both come after the model has watched for as long as
        `ObservationSpec.warmup` says, and `one_step` carries over what it saw;
        with an exit rule also `exit_one_step` and `exit_open_loop`, and mean loops `exit_one_step_loops` and
        `exit_open_loop_loops`.
    """
    leaves = exit is not None and exit.rule != "fixed"
    if model.reads_text:
        early = validate_text(model, windows, device, exit) if leaves else {}
        return validate_text(model, windows, device) | {f"exit_{name}": value for name, value in early.items()}
    windows = windows[:most].to(device)
    found, _ = _errors(model, windows, None)
    if not leaves:
        return found
    errors, loops = _errors(model, windows, exit)
    early = {f"exit_{name}": value for name, value in errors.items()}
    return found | early | {f"exit_{name}_loops": value for name, value in loops.items()}


def _errors(model: WorldModel, windows: Windows, exit: ExitConfig | None) -> tuple[dict[str, float], dict[str, float]]:
    """Error and mean loops, one step ahead and with eyes shut."""
    if model.observation.warmup:
        return _watched_errors(model, windows, exit)
    batch, steps = windows.rewards.shape
    traces = {name: Trace(residuals=False) for name in ("one_step", "open_loop")}

    imagined = model.imagine(
        windows.actions, observation=windows.observations[:, 0], exit=exit, trace=traces["open_loop"]
    )
    embeddings = model.encode(windows.observations[:, :-1].flatten(0, 1))
    single = model.step(
        model.initial(batch * steps), windows.actions.flatten(0, 1), embeddings, exit=exit, trace=traces["one_step"]
    )
    latents = {"one_step": single.unflatten(0, (batch, steps)), "open_loop": imagined}
    return (
        {name: float(observation_errors(model, h, windows.observations[:, 1:]).mean()) for name, h in latents.items()},
        {name: float(trace.loops.double().mean()) for name, trace in traces.items()},
    )


def _watched_errors(
    model: WorldModel, windows: Windows, exit: ExitConfig | None
) -> tuple[dict[str, float], dict[str, float]]:
    """`_errors` of the steps after the model has watched for a while."""
    seen, actions = windows.observations, windows.actions
    watch = min(model.observation.warmup, actions.shape[1] - 1)
    traces = {name: Trace(residuals=False) for name in ("one_step", "open_loop")}
    latents = model.observe(seen[:, :-1], actions, exit=exit, trace=traces["one_step"])
    imagined = model.imagine(
        actions[:, watch:],
        observation=seen[:, watch],
        h=latents[:, watch - 1] if watch else None,
        exit=exit,
        trace=traces["open_loop"],
    )
    errors = {
        name: float(observation_errors(model, h, seen[:, watch + 1 :]).mean())
        for name, h in {"one_step": latents[:, watch:], "open_loop": imagined}.items()
    }
    return errors, {name: float(trace.loops.double().mean()) for name, trace in traces.items()}

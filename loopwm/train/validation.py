"""A quick look at the validation episodes during training."""

from __future__ import annotations

import torch

from loopwm.data.windows import Windows
from loopwm.model.world_model import WorldModel


@torch.no_grad()
def validate(model: WorldModel, windows: Windows, device: torch.device, most: int = 512) -> dict[str, float]:
    """Normalised squared error over the features that change.

    Returns:
        `one_step`: each observation predicted from the one before it, with nothing carried over;
        `open_loop`: the whole window imagined from its leading observation, averaged over its steps.
    """
    windows = windows[:most].to(device)
    batch, steps = windows.rewards.shape
    scored = model.observation_changes
    target = model.normalise(windows.observations[:, 1:])[..., scored]

    imagined = model.imagine(windows.actions, observation=windows.observations[:, 0])
    open_loop = model.normalise(model.decode(imagined).observation)[..., scored]
    embeddings = model.encode(windows.observations[:, :-1].flatten(0, 1))
    single = model.step(model.initial(batch * steps), windows.actions.flatten(0, 1), embeddings)
    one_step = model.normalise(model.decode(single).observation)[..., scored].unflatten(0, (batch, steps))
    errors = {"one_step": one_step - target, "open_loop": open_loop - target}
    return {name: float(error.square().mean()) for name, error in errors.items()}

"""Looped world models: one small shared block, applied as many times as you ask for.

The public names are imported when they are used, so that `import loopwm` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwm.data.episode import Episode
    from loopwm.data.store import Store
    from loopwm.envs.imagined import WorldModelEnv, WorldModelVectorEnv
    from loopwm.envs.imagined_text import TextWorldModelEnv
    from loopwm.errors import LoopwmError, UserError
    from loopwm.model.config import ExitConfig, LoopConfig, ModelConfig
    from loopwm.model.trace import Trace
    from loopwm.model.world_model import WorldModel
    from loopwm.presets import RunConfig
    from loopwm.text.simulator import TextSimulator
    from loopwm.train.checkpoint import load

__version__ = "0.1.0"

_HOMES = {
    "Episode": "loopwm.data.episode",
    "ExitConfig": "loopwm.model.config",
    "LoopConfig": "loopwm.model.config",
    "LoopwmError": "loopwm.errors",
    "ModelConfig": "loopwm.model.config",
    "RunConfig": "loopwm.presets",
    "Store": "loopwm.data.store",
    "TextSimulator": "loopwm.text.simulator",
    "TextWorldModelEnv": "loopwm.envs.imagined_text",
    "Trace": "loopwm.model.trace",
    "UserError": "loopwm.errors",
    "WorldModel": "loopwm.model.world_model",
    "WorldModelEnv": "loopwm.envs.imagined",
    "WorldModelVectorEnv": "loopwm.envs.imagined",
    "load": "loopwm.train.checkpoint",
}

__all__ = [
    "Episode",
    "ExitConfig",
    "LoopConfig",
    "LoopwmError",
    "ModelConfig",
    "RunConfig",
    "Store",
    "TextSimulator",
    "TextWorldModelEnv",
    "Trace",
    "UserError",
    "WorldModel",
    "WorldModelEnv",
    "WorldModelVectorEnv",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'loopwm' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

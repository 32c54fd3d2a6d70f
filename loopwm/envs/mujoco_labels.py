"""How hard a transition was for MuJoCo: what the engine itself reports, summed over the engine steps it is made of."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loopwm.errors import UserError

GL = (
    "install the libraries that draw without a screen, with: apt-get install libegl1 libopengl0 libgl1-mesa-dri, and "
    "set MUJOCO_GL=egl"
)
LABELS = ("solver_iterations", "contacts", "impulse")


def engine(extra: str = "mujoco") -> Any:
    """The package `mujoco`, which says nothing of its types; `extra` of loopwm brings it.

    Raises:
        UserError: it is not installed, or a library that draws is not.
    """
    try:
        return importlib.import_module("mujoco")
    except ModuleNotFoundError as error:
        raise UserError(f'This world needs the package mujoco: pip install "loopwm[{extra}]"') from error
    except Exception as error:
        # It loads the renderer that MUJOCO_GL names as it is imported, and fails in its own ways without a library.
        raise UserError(
            f"The package mujoco cannot be loaded with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} "
            f"({type(error).__name__}: {error}): {GL}; or unset it where nothing is drawn."
        ) from error


class Difficulty:
    """Sums what one transition asked of the engine; `read` after every engine step, `clear` before the first.

    solver_iterations: iterations of the constraint solver (`solver_niter`), over all engine steps and islands.
    contacts: contacts at a time (`ncon`), the mean over the engine steps.
    impulse: normal impulse of all contacts, N s: `efc_force` times the time step. What merely rests counts too: m g dt.

    Args:
        model: the engine's `MjModel`; what `read` takes is its `MjData`.

    Under RK4 an engine step solves four times; the last of them is what the engine leaves to be read.
    """

    def __init__(self, model: Any) -> None:
        mujoco = engine()
        # In a pyramidal cone the forces along the edges add up to the normal force. In an elliptic one the normal
        # force is the first row of a contact, and friction the others.
        self._pyramids = model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
        self._seconds = float(model.opt.timestep)
        self.clear()

    def clear(self) -> None:
        """A new transition begins."""
        self._steps = self._iterations = self._contacts = 0
        self._force = 0.0

    def read(self, data: Any) -> None:
        """Add the engine step that `data` has just taken with `mj_step` or `mj_step2`."""
        self._steps += 1
        islands = data.nisland
        # Two or more islands are rare, and one number is read much faster than an array is summed.
        self._iterations += int(data.solver_niter[0] if islands < 2 else data.solver_niter[:islands].sum())
        contacts = data.ncon
        if not contacts:
            return
        self._contacts += contacts
        if self._pyramids:
            # A list is summed faster than an array as short as this one; contacts come last among the constraints.
            self._force += sum(data.efc_force[data.ne + data.nf + data.nl :].tolist())
        else:
            rows = data.contact.efc_address
            self._force += float(data.efc_force[rows[rows >= 0]].sum())

    def labels(self) -> dict[str, float]:
        """LABELS of the transition so far."""
        return {
            "solver_iterations": float(self._iterations),
            "contacts": self._contacts / max(self._steps, 1),
            "impulse": self._force * self._seconds,
        }


def joint_rates(
    observations: npt.NDArray[Any], qpos: npt.NDArray[Any], qvel: npt.NDArray[Any], model: Any
) -> list[tuple[int, int]]:
    """Pairs (i, j) for which observed number j is the rate of change of observed number i.

    Found by comparing: a number that always equals a joint's coordinate is that coordinate. Only hinges and slides
    have a coordinate whose rate is a single number.

    Args:
        observations: (n, S), what was seen.
        model: the engine's `MjModel`.
        qpos, qvel: (n, nq) and (n, nv), the engine's state at the same instants.
    """
    mujoco = engine()
    simple = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
    pairs = []
    for joint in range(model.njnt):
        if int(model.jnt_type[joint]) in simple:
            value = _column(observations, qpos[:, model.jnt_qposadr[joint]])
            rate = _column(observations, qvel[:, model.jnt_dofadr[joint]])
            if value is not None and rate is not None:
                pairs.append((value, rate))
    return pairs


def _column(observations: npt.NDArray[Any], values: npt.NDArray[Any]) -> int | None:
    """The only column that mostly equals `values` (n,), which must not be constant; velocities are often clipped."""
    found = np.flatnonzero((observations == values[:, None].astype(observations.dtype)).mean(axis=0) > 0.5)
    return int(found[0]) if len(found) == 1 and np.ptp(values) > 0 else None


def named_rates(names: Sequence[str], pairs: list[tuple[int, int]]) -> tuple[tuple[str, str], ...]:
    """Pairs of indices as pairs of names."""
    return tuple((names[value], names[rate]) for value, rate in pairs)

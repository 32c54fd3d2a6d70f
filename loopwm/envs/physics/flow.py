"""The engine of the fluid: vorticity on a periodic grid, advanced by torch-cfd's pseudo-spectral scheme."""

from __future__ import annotations

from math import pi

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_cfd.grids import Grid
from torch_cfd.spectral import (
    NavierStokes2DSpectral,
    RK4CrankNicolsonStepper,
    spectral_grad_2d,
    vorticity_to_velocity,
)

from loopwm.errors import LoopwmError

GRID = 32
"""Cells along a side of the box."""
SIDE = 2 * pi
"""Of the box. Its smallest wave number is then 1."""
_FINEST = GRID // 3
"""Largest wave number that advection makes: the 2/3 rule."""
_TURN = 2.0
"""Radians that the finest wave may turn in an engine step. Runge-Kutta of fourth order is stable up to about 3."""
_MOST_STEPS = 2000

Array = npt.NDArray[np.float64]


class Flow:
    """Plane incompressible flow under a steady force: the Navier-Stokes equations in terms of the vorticity.

    In double precision, with fourth-order low-storage Runge-Kutta for advection, Crank-Nicolson for viscosity and drag,
    and the 2/3 rule against aliasing.

    Args:
        viscosity, drag: a wave of wave number k fades at the rate viscosity k^2 + drag.
        dt: time that `advanced` advances by.
        coarse_steps: engine steps whose error it measures; it makes at least twice as many itself.
    """

    def __init__(self, viscosity: float, drag: float, dt: float, coarse_steps: int) -> None:
        self.dt, self.coarse_steps = dt, coarse_steps
        self.equation = Stirred(viscosity, drag)
        self.stepper = RK4CrankNicolsonStepper()
        # Plain numbers, because a tensor for every coefficient costs more than the arithmetic of so small a grid.
        self.weights = {name: weights.tolist() for name, weights in self.stepper.params.items()}

    @torch.inference_mode()
    def advanced(self, vorticity: Array, stirring: Array) -> tuple[Array, Array]:
        """The field (32, 32) after `dt`, and what the coarse steps make of it, which may be nonsense.

        Args:
            vorticity: (32, 32), x before y.
            stirring: curl of the force, (32, 32).

        Raises:
            LoopwmError: the flow became too fast.
        """
        self.equation.stirring = torch.fft.rfft2(torch.from_numpy(stirring))
        start = torch.fft.rfft2(torch.from_numpy(vorticity))[None]
        lengths = torch.tensor((self.dt / 2, self.dt), dtype=torch.float64).view(2, 1, 1) / self.coarse_steps
        # Side by side as long as both are under way: on so small a grid, two cost hardly more than one.
        both = self._stepped(torch.cat([start, start]), lengths, self.coarse_steps)
        fine = on_grid(self._stepped(both[:1], self.dt / 2 / self.coarse_steps, self.coarse_steps))[0]
        count = 2 * self.coarse_steps
        # Written so that a field that has become infinite counts as too fast.
        while not max(self._speed(vorticity), self._speed(fine)) * _FINEST * self.dt / count < _TURN:
            count *= 2
            if count > _MOST_STEPS:
                raise LoopwmError(f"The flow became too fast to follow over {self.dt} in {_MOST_STEPS} engine steps.")
            fine = on_grid(self._stepped(start, self.dt / count, count))[0]
        return fine, on_grid(both[1])

    @torch.inference_mode()
    def velocity(self, vorticity: Array) -> Array:
        """The flow (2, 32, 32) that has this vorticity, no divergence, and no mean."""
        return on_grid(self.equation.operators[:2, 0] * torch.fft.rfft2(torch.from_numpy(vorticity)))

    def energy(self, vorticity: Array) -> float:
        """Kinetic energy per area."""
        return float((self.velocity(vorticity) ** 2).sum(axis=0).mean()) / 2

    def _stepped(self, spectrum: Tensor, length: float | Tensor, count: int) -> Tensor:
        for _ in range(count):
            spectrum = self.stepper(spectrum, length, self.equation, params=self.weights)
        return spectrum

    def _speed(self, vorticity: Array) -> float:
        return float(np.abs(self.velocity(vorticity)).sum(axis=0).max())


class Stirred(NavierStokes2DSpectral):
    """torch-cfd's equation, stirred, and with the operators of its advection made once: that is twice as fast.

    Its wave numbers are exact in double precision, so that the flow is free of divergence to rounding.
    """

    kx: Tensor
    ky: Tensor
    linear_term: Tensor
    filter: Tensor

    def __init__(self, viscosity: float, drag: float) -> None:
        super().__init__(viscosity, Grid((GRID, GRID), domain=((0.0, SIDE), (0.0, SIDE))), drag=drag)
        self.double()
        self.kx, self.ky = (torch.round(wave * SIDE) / SIDE for wave in (self.kx, self.ky))
        waves = self.kx, self.ky
        self.linear_term = -viscosity * SIDE**2 * (self.kx**2 + self.ky**2) - drag
        one = torch.ones(GRID, GRID // 2 + 1, dtype=torch.complex128)
        velocity, _ = vorticity_to_velocity(self.grid, one, waves)
        # (4, 1, 32, 17): what makes the velocity and the slopes along x and y of a vorticity.
        self.operators = torch.stack([*velocity, *spectral_grad_2d(one, waves)])[:, None]
        self.stirring = torch.zeros_like(one)

    def explicit_terms(self, vort_hat: Tensor, t: float | None = 0.0) -> Tensor:
        """Advection and stirring of (B, 32, 17), in Fourier space."""
        u, v, along_x, along_y = torch.fft.irfft2(self.operators * vort_hat)
        return self.stirring - self.filter * torch.fft.rfft2(u * along_x + v * along_y)


def on_grid(spectrum: Tensor) -> Array:
    """Fourier coefficients (..., 32, 17) as values on the grid, (..., 32, 32)."""
    return torch.fft.irfft2(spectrum, s=(GRID, GRID)).numpy()


def relative_error(tried: Array, true: Array) -> float:
    """Root mean square of the difference of two fields over that of the true one; 1 if it is more, or not a number."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(((tried - true) ** 2).mean())
    size = float((true**2).mean())
    return float(np.sqrt(error / size)) if error < size else float(error > 0 or not np.isfinite(error))

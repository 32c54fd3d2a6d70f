"""The constants of the contraction theorem, and what follows from them. Proof: docs/certificate.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Contraction:
    """What the weights of a certified core amount to, in float64.

    Attributes:
        lipschitz: L, a Lipschitz constant of G in h in the 2-norm over all tokens jointly.
        d: (D,) diagonal of I - Abar; |x|_* = |d^(-1/2) x|.
    """

    lipschitz: float
    d: Tensor

    @property
    def d_min(self) -> float:
        """Smallest share of a channel that one loop renews."""
        return float(self.d.min())

    @property
    def d_max(self) -> float:
        """Largest share of a channel that one loop renews."""
        return float(self.d.max())

    @property
    def rate(self) -> float:
        """rho = 1 - d_min (1 - L): one loop multiplies the |.|_* distance of two states by at most this."""
        return 1 - self.d_min * (1 - self.lipschitz)

    def distance(self, x: Tensor) -> Tensor:
        """|x|_* of x (B, N, D), over all tokens of a row: (B,)."""
        return (x * self.d.to(x).rsqrt()).flatten(1).norm(dim=1)

    def loops_to(self, share: float) -> int:
        """Loops after which the distance to the fixed point is at most `share` of what it was, whatever the input."""
        return math.ceil(math.log(share) / math.log(self.rate))

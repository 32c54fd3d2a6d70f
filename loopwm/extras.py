"""Optional parts: which of them brings a package that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loopwm.errors import Missing


@contextmanager
def installed(world: str, extra: str, otherwise: str = "") -> Iterator[None]:
    """Around the import of an engine: says which extra brings what is missing.

    Args:
        otherwise: what can be done without the package.

    Raises:
        Missing: a package of the engine is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise Missing(
            f"The world '{world}' needs the package {error.name}, which is not installed; get it with "
            f'pip install "loopwm[{extra}]"{otherwise}.'
        ) from error

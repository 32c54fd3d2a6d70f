"""Windows read by a thread while the update before them is computed, so that nobody waits for the disk."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from loopwm.data.windows import Sampler, Windows


class ReadAhead:
    """Takes draws of a sampler in order, and reads the next while the last is used.

    What is read ahead is no draw yet: the sampler's state counts what was taken, so a run that is resumed from it sees
    the windows it would have seen. Draws depend on their number and on nothing else, so reading one early, or twice,
    changes none.

    Args:
        pinned: keep what is read in page-locked memory, from where an accelerator copies while it computes.
    """

    def __init__(self, sampler: Sampler, pinned: bool = False) -> None:
        self.sampler, self.pinned = sampler, pinned
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._coming: tuple[tuple[int, int, int], Future[Windows]] | None = None

    def take(self, batch: int, length: int, following: tuple[int, int] | None = None) -> Windows:
        """The sampler's next draw: `batch` windows of `length` transitions.

        Args:
            following: batch and length of the draw after this one, which is then read meanwhile; None reads nothing.

        Raises:
            UserError: no episode is long enough.
        """
        number = self.sampler.state().draws
        asked, coming = (number, batch, length), self._coming
        # Another length than was announced, or a sampler that was put back, and what was read is of no use.
        usable = coming is not None and coming[0] == asked
        windows = coming[1].result() if coming is not None and usable else self._read(*asked)
        self.sampler.skip()
        self._coming = None
        if following is not None:
            ahead = (number + 1, *following)
            self._coming = ahead, self._reader.submit(self._read, *ahead)
        return windows

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._coming = None

    def _read(self, number: int, batch: int, length: int) -> Windows:
        windows = self.sampler.draw(number, batch, length)
        return windows.pinned() if self.pinned else windows

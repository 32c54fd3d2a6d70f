"""Random shifts of images, the one augmentation that training from pixels profits from nearly everywhere.

An encoder that has seen few episodes learns at which pixel things happened in them. Shifted by a few pixels, the same
window is another picture of the same events, so the encoder has to find them wherever they are. All frames of a window
move together: were each moved by itself, things would seem to jump.

Source: DrQ, arXiv 2004.13649, with its padding of 4 pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from loopwm.data.windows import Windows


def offsets(seed: int, update: int, batch: int, most: int) -> Tensor:
    """By how many pixels down and to the right each window of an update moves, (B, 2), from -most to most.

    They depend on the seed and the update alone, so that a resumed run goes on with those it would have seen.
    """
    # Counter-based, and apart from what else is drawn with this seed, which has other numbers in this word.
    bits = np.random.Philox(key=seed, counter=[0, 0, 2, update])
    return torch.from_numpy(np.random.Generator(bits).integers(-most, most + 1, size=(batch, 2)))


def shifted(windows: Windows, by: Tensor, most: int) -> Windows:
    """Windows of images (B, K+1, H, W, C), each moved by its own `by` (B, 2), at most `most` pixels; edges repeat."""
    images = windows.observations
    height, width = images.shape[2:4]
    padded = edged(edged(images, 2, most), 3, most)
    # Slices: their rows are contiguous, which an index for every pixel is not, and several times as slow.
    corners = (most - by).tolist()
    moved = [
        window[:, top : top + height, left : left + width] for window, (top, left) in zip(padded, corners, strict=True)
    ]
    return replace(windows, observations=torch.stack(moved))


def edged(images: Tensor, axis: int, width: int) -> Tensor:
    """Images with `width` copies of their edges on both sides of an axis."""
    shape = [-1] * images.ndim
    shape[axis] = width
    first, last = images.narrow(axis, 0, 1), images.narrow(axis, images.shape[axis] - 1, 1)
    return torch.cat([first.expand(shape), images, last.expand(shape)], dim=axis)

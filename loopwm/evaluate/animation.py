"""The engine and the imagination side by side, as one small animated image."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from loopwm.evaluate.rollout import Array, imagined_observations
from loopwm.evaluate.segments import Segments
from loopwm.model.world_model import WorldModel

SIDE, GAP, HEADER = 220, 8, 20
_BACK, _TEXT, _OUTLINE = (24, 26, 31), (225, 225, 225), (255, 255, 255)


@dataclass(frozen=True)
class Scene:
    """How a world is drawn.

    Attributes:
        draw: observation (*S) -> image (SIDE, SIDE, 3) uint8.
        outlines: observation (*S) -> circles (centre x, centre y, radius) in pixels, to show the truth over a guess.
        note: the world's sizes in words, for captions.
    """

    draw: Callable[[Array], npt.NDArray[np.uint8]]
    outlines: Callable[[Array], list[tuple[float, float, float]]]
    note: str


def scene_of(world: str) -> Scene | None:
    """The scene of a world that can be drawn from an observation, else None."""
    if world != "billiards":
        return None
    from loopwm.envs.physics.billiards import BilliardsConfig, draw

    config = BilliardsConfig(pixels=SIDE)
    scale = SIDE / (2 * config.half_width)

    def outlines(observation: Array) -> list[tuple[float, float, float]]:
        return [
            ((x + config.half_width) * scale, (config.half_width - y) * scale, config.radius * scale)
            for x, y in observation[:, :2].tolist()
        ]

    note = f"The table is {2 * config.half_width:g} units wide, a disc {2 * config.radius:g}."
    return Scene(lambda observation: draw(observation, config), outlines, note)


@dataclass(frozen=True)
class Animation:
    """A typical rollout, drawn.

    Attributes:
        moving: data URI of an animated GIF. still: data URI of a PNG with a few of its frames.
        steps: how many steps are imagined. episode, start: where the recording comes from.
        rank: share of the candidate rollouts with a smaller error than this one; about one half.
        candidates: full-length rollouts that it was chosen from.
    """

    moving: str
    still: str
    steps: int
    episode: int
    start: int
    rank: float
    candidates: int


def animate(model: WorldModel, segments: Segments, error: Array, scene: Scene) -> Animation | None:
    """The full-length rollout with the MEDIAN error, so that it is neither a good nor a bad example.

    Args:
        segments: candidates.
        error: (B, K) open-loop errors of `model` on them.

    Returns:
        None when no episode lasts as long as the segments do.
    """
    full = np.flatnonzero(segments.valid.all(axis=1))
    if len(full) == 0:
        return None
    order = full[np.argsort(error[full].mean(axis=1), kind="stable")]
    middle = len(order) // 2
    chosen = segments.rows(order[middle : middle + 1])
    imagined = np.concatenate([chosen.observations[:, :1], imagined_observations(model, chosen)], axis=1)[0]
    frames = [
        frame(scene, true, guess, step)
        for step, (true, guess) in enumerate(zip(chosen.observations[0], imagined, strict=True))
    ]
    return Animation(
        moving=_gif(frames),
        still=_filmstrip(frames),
        steps=segments.length,
        episode=int(chosen.episode[0]),
        start=int(chosen.start[0]),
        rank=middle / len(order),
        candidates=len(order),
    )


def frame(scene: Scene, true: Array, guess: Array, step: int) -> Image.Image:
    """One frame: the engine on the left, the imagination on the right with the truth as outlines."""
    image = Image.new("RGB", (2 * SIDE + GAP, SIDE + HEADER), _BACK)
    image.paste(Image.fromarray(scene.draw(true)), (0, HEADER))
    # A diverged imagination is drawn off the table instead of stopping the report.
    shown = np.nan_to_num(guess, nan=1e3, posinf=1e3, neginf=-1e3)
    image.paste(Image.fromarray(scene.draw(shown)), (SIDE + GAP, HEADER))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for x, y, radius in scene.outlines(true):
        x, y = x + SIDE + GAP, y + HEADER
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_OUTLINE)
    pen.rectangle((SIDE, 0, SIDE + GAP - 1, SIDE + HEADER), fill=_BACK)
    pen.rectangle((0, 0, 2 * SIDE + GAP, HEADER - 1), fill=_BACK)
    pen.text((6, 2), f"engine, step {step}", _TEXT, font)
    pen.text((SIDE + GAP + 6, 2), "imagination", _TEXT, font)
    return image


def _gif(frames: list[Image.Image]) -> str:
    # One palette for all frames: per-frame palettes flicker and take more space.
    palette = frames[0].quantize(64, dither=Image.Dither.NONE)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in frames]
    pauses = [800, *[250] * (len(frames) - 2), 1500]
    stream = io.BytesIO()
    indexed[0].save(
        stream, format="GIF", save_all=True, append_images=indexed[1:], duration=pauses[: len(frames)], loop=0
    )
    return _uri("image/gif", stream)


def _filmstrip(frames: list[Image.Image]) -> str:
    last = len(frames) - 1
    picked = [frames[step] for step in sorted({0, min(5, last), min(10, last), last})]
    width, height = picked[0].size
    strip = Image.new("RGB", (width, (height + GAP) * len(picked) - GAP), _BACK)
    for row, image in enumerate(picked):
        strip.paste(image, (0, row * (height + GAP)))
    stream = io.BytesIO()
    strip.quantize(64, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return _uri("image/png", stream)


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"

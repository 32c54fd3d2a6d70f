"""The engine and the imagination side by side, as one small animated image."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from loopwm.evaluate.rollout import Array, imagined_observations, open_loop
from loopwm.evaluate.segments import Segments
from loopwm.model.config import ExitConfig
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ObservationSpec

SIDE, GAP, HEADER, FOOTER = 220, 8, 20, 38
_BACK, _TEXT, _OUTLINE, _AHEAD = (24, 26, 31), (225, 225, 225), (255, 255, 255), (52, 56, 64)
_SCALE = ((62, 92, 190), (54, 160, 190), (120, 200, 110), (245, 200, 70), (232, 88, 60))
"""Colours from one loop to the most."""


@dataclass(frozen=True)
class Scene:
    """How a world is drawn.

    Attributes:
        draw: observation (*S) -> image (SIDE, SIDE, 3) uint8.
        outlines: observation (*S) -> circles (centre x, centre y, radius) in pixels, to show the truth over a guess.
        note: what is to be seen, in words, for captions. worry: and what would be bad.
        left: what is shown on the left.
    """

    draw: Callable[[Array], npt.NDArray[np.uint8]]
    outlines: Callable[[Array], list[tuple[float, float, float]]]
    note: str
    worry: str
    left: str = "engine"


def scene_of(world: str, spec: ObservationSpec) -> Scene | None:
    """The scene of a world that can be drawn from an observation, else None; an image shows itself."""
    if spec.kind == "image" and spec.num_features in (1, 3, 4):
        height, width = spec.shape[:2]
        note = f"Images of {height} by {width} pixels, enlarged."
        return Scene(
            picture, lambda _: [], note, "things that blur, vanish or stand still within a few steps.", "recorded"
        )
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

    note = (
        "White outlines show where the discs really are. "
        f"The table is {2 * config.half_width:g} units wide, a disc {2 * config.radius:g}."
    )
    worry = "discs that leave their outlines within a few steps, merge, or stand still."
    return Scene(lambda observation: draw(observation, config), outlines, note, worry)


def picture(observation: Array) -> npt.NDArray[np.uint8]:
    """An image (H, W, C), recorded or imagined, as (SIDE, SIDE, 3) uint8."""
    pixels = np.asarray(observation).clip(0, 255).round().astype(np.uint8)
    pixels = pixels[..., :3] if pixels.shape[-1] > 1 else np.repeat(pixels, 3, axis=-1)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST))


@dataclass(frozen=True)
class Animation:
    """A typical rollout, drawn.

    Attributes:
        moving: data URI of an animated GIF. still: data URI of a PNG with a few of its frames.
        steps: how many steps are imagined, after `watched` that were seen. episode, start: where the recording comes
            from.
        rank: share of the candidate rollouts with a smaller error than this one; about one half.
        candidates: full-length rollouts that it was chosen from.
        exit: the rule that rows left the loop by, None if every step made all loops. cap: most loops.
        loops: spent on each step.
    """

    moving: str
    still: str
    steps: int
    episode: int
    start: int
    rank: float
    candidates: int
    exit: ExitConfig | None
    cap: int
    loops: tuple[int, ...]
    watched: int = 0


@dataclass(frozen=True)
class Spending:
    """Loops of each step of a rollout, and the most that a step may make."""

    loops: tuple[int, ...]
    cap: int

    def colour(self, loops: int) -> tuple[int, int, int]:
        """Of a number of loops, from 1 to the most."""
        place = (loops - 1) / max(1, self.cap - 1) * (len(_SCALE) - 1)
        low = min(int(place), len(_SCALE) - 2)
        red, green, blue = (
            round(a + (place - low) * (b - a)) for a, b in zip(_SCALE[low], _SCALE[low + 1], strict=True)
        )
        return red, green, blue


def animate(
    model: WorldModel, segments: Segments, scene: Scene, exit: ExitConfig | None = None, cap: int | None = None
) -> Animation | None:
    """The full-length rollout with the MEDIAN error, so that it is neither a good nor a bad example.

    Args:
        segments: candidates.
        exit: lets rows leave the loop early; the loops of every step are then shown in colour.
        cap: most loops; mu when None.

    Returns:
        None when no episode lasts as long as the segments do.
    """
    full = np.flatnonzero(segments.ahead.valid.all(axis=1))
    if len(full) == 0:
        return None
    error = open_loop(model, segments.rows(full), cap, exit=exit).observation
    order = full[np.argsort(error[:, segments.warmup :].mean(axis=1), kind="stable")]
    middle = len(order) // 2
    chosen = segments.rows(order[middle : middle + 1])
    predicted, used = imagined_observations(model, chosen, cap, exit)
    chosen = chosen.ahead
    imagined = np.concatenate([chosen.observations[:, :1], predicted], axis=1)[0]
    spending = Spending(tuple(used[0].tolist()), cap or model.default_loops)
    frames = [
        frame(scene, true, guess, step, spending if exit else None)
        for step, (true, guess) in enumerate(zip(chosen.observations[0], imagined, strict=True))
    ]
    return Animation(
        moving=_gif(frames),
        still=_filmstrip(frames),
        steps=chosen.length,
        episode=int(chosen.episode[0]),
        start=int(chosen.start[0]),
        rank=middle / len(order),
        candidates=len(order),
        exit=exit,
        cap=spending.cap,
        loops=spending.loops,
        watched=segments.warmup,
    )


def frame(scene: Scene, true: Array, guess: Array, step: int, spending: Spending | None = None) -> Image.Image:
    """One frame: the engine on the left, the imagination on the right with the truth as outlines.

    Args:
        spending: coloured below, step by step, and around the imagination; its step k is shown from frame k + 1 on.
    """
    image = Image.new("RGB", (2 * SIDE + GAP, SIDE + HEADER + (FOOTER if spending else 0)), _BACK)
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
    pen.text((6, 2), f"{scene.left}, step {step}", _TEXT, font)
    loops = spending.loops[step - 1] if spending and step else 0
    made = f", {loops} loop{'s'[: loops != 1]}" if loops else ""
    pen.text((SIDE + GAP + 6, 2), f"imagination{made}", _TEXT, font)
    if spending:
        _spend(pen, spending, step)
    return image


def _spend(pen: ImageDraw.ImageDraw, spending: Spending, step: int) -> None:
    """The loops so far as a strip of coloured cells, the legend below it, and the present step's colour as a frame."""
    font, width, top = ImageFont.load_default(12), 2 * SIDE + GAP, SIDE + HEADER + 4
    for index, loops in enumerate(spending.loops):
        left, right = (round(place * width / len(spending.loops)) for place in (index, index + 1))
        pen.rectangle(
            (left, top, max(left, right - 2), top + 11), fill=spending.colour(loops) if index < step else _AHEAD
        )
    if step:
        box = (SIDE + GAP, HEADER, width - 1, HEADER + SIDE - 1)
        pen.rectangle(box, outline=spending.colour(spending.loops[step - 1]), width=3)
    pen.text((6, top + 16), "loops per step: 1", _TEXT, font)
    cell, left = max(1, min(18, 180 // spending.cap)), 110
    for loops in range(1, spending.cap + 1):
        place = left + (loops - 1) * cell
        pen.rectangle((place, top + 18, max(place, place + cell - 2), top + 29), fill=spending.colour(loops))
    pen.text((left + spending.cap * cell + 4, top + 16), str(spending.cap), _TEXT, font)


def _gif(frames: list[Image.Image]) -> str:
    # One palette for all frames: per-frame palettes flicker and take more space.
    palette = frames[-1].quantize(64, dither=Image.Dither.NONE)
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

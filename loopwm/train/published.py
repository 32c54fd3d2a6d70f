"""Small trained models that come with loopwm: averaged weights alone, in bfloat16, with a card that says what they are,
and the configuration and log of the run, so that whatever measures a run measures them too.

python -m loopwm.train.published RUN weights/NAME --card CARD.md
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loopwm.errors import UserError
from loopwm.files import refuse_existing

if TYPE_CHECKING:
    from collections.abc import Sequence

CARD = "README.md"
STATE = ("update", "seconds", "skipped", "data_digest", "started_from", "validation", "precision")
"""What a checkpoint says of its training; how to go on with it is left out."""


def folders() -> dict[str, Path]:
    """The models that are here, by name: of an installed package in it, of a clone beside it."""
    package = Path(__file__).parents[1]
    places = (package / "weights", package.parent / "weights")
    return {found.parent.name: found.parent for place in places for found in sorted(place.glob("*/*.safetensors"))}


def publish(run: Path, folder: Path, card: str) -> int:
    """Write the averaged weights of `run` to a new folder; returns its bytes.

    Numbers are rounded to bfloat16, and are float32 again when loaded.

    Raises:
        UserError: the folder exists, or `run` has no checkpoint.
        LoopwmError: the disk refused.
    """
    from loopwm.train.checkpoint import NAME, read_checkpoint, save_checkpoint
    from loopwm.train.journal import LOG

    refuse_existing(folder, "choose another folder or remove it")
    found = read_checkpoint(Path(run) / NAME, ("ema.",))
    rounded = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() and tensor.dim() > 1 else tensor
        for name, tensor in found.tensors.items()
    }
    kept = {name: found.state[name] for name in STATE if name in found.state}
    folder.mkdir(parents=True)
    try:
        save_checkpoint(folder / NAME, found.blueprint, rounded, kept)
        (folder / CARD).write_text(card, encoding="utf-8")
        for name in ("config.yaml", LOG):
            shutil.copyfile(Path(run) / name, folder / name)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return (folder / NAME).stat().st_size


def main(words: Sequence[str]) -> int:
    """RUN FOLDER --card FILE."""
    if len(words) != 4 or words[2] != "--card":
        print("usage: python -m loopwm.train.published RUN FOLDER --card FILE", file=sys.stderr)
        return 2
    run, folder, _, card = words
    try:
        size = publish(Path(run), Path(folder), Path(card).read_text(encoding="utf-8"))
    except UserError as error:
        print(f"loopwm: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{folder}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

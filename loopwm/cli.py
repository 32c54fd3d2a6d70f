"""The command line: parse, call, print.

A command is imported when it is used, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from loopwm.errors import LoopwmError, UserError
from loopwm.presets import PRESETS

COMMANDS = {
    "demo": "all of it: record, train three models, evaluate them, write a report",
    "collect": "record episodes of a world, in numbers or in words, into one file",
    "data": "inspect, validate, convert, split or mix recordings in any format",
    "train": "train a model on recorded episodes",
    "train-gate": "teach a trained looped model when to leave its loop",
    "evaluate": "measure a trained model on episodes it has never seen",
    "benchmark": "measure what rules predict of a text world, and what cannot be known",
    "calibrate": "choose when a loop may stop early, with a guarantee on the error that adds",
    "certify": "say what a model's weights guarantee about its loop, for every input",
    "monitor": "say whether a model, or its world, has changed since its reference was stored",
    "imagine": "play a text world that a model has learned, in the terminal",
    "report": "write one HTML page about one or more evaluated runs",
    "study": "repeat a measurement that this repository publishes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 failed, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch(words)
    except LoopwmError as error:
        return give_up(str(error), error.exit_code)
    except OSError as error:
        return give_up(f"The operating system refused: {error}.", LoopwmError.exit_code)
    except KeyboardInterrupt:
        return give_up("Stopped; nothing half-written was left behind.", 130)


def give_up(sentence: str, code: int) -> int:
    """Say why on standard error."""
    print(f"loopwm: {sentence}", file=sys.stderr)
    return code


def dispatch(words: list[str]) -> int:
    """Run the command that the words begin with."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, rest = words[0], words[1:]
    if name == "--version":
        print(f"loopwm {version('loopwm')}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(COMMANDS)}."
        raise UserError(f"There is no command '{name}'; {hint}")
    import_module(f"loopwm.commands.{name.replace('-', '_')}").main(rest)
    return 0


def overview() -> str:
    """What `loopwm --help` shows."""
    commands = "\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())
    presets = "\n".join(f"  {name:<10} {one.intent}" for name, one in PRESETS.items())
    return f"""usage: loopwm COMMAND [options]

Looped world models: record a world, train a model that spends as many loops of one shared block on a transition as you
ask for, and measure what the loops buy.

commands ('loopwm COMMAND --help' lists the options of one):
{commands}

presets (starting points of 'train' and 'demo'):
{presets}

to begin with:
  loopwm demo debug        does everything work here?
  loopwm demo              the same with numbers that mean something"""

"""Reading the words of a command line into a frozen dataclass."""

from __future__ import annotations

import argparse
from typing import TypeVar

import tyro

Form = TypeVar("Form")


def parse(form: type[Form], words: list[str], command: str, default: Form | None = None) -> Form:
    """The form filled in from `words`.

    Prints help when asked, or what is wrong together with near misses, and exits (with code 2 if something is wrong).

    Args:
        form: a dataclass; its fields are the options, their docstrings the help.
        command: name of the command, for the help.
        default: values of what the words leave out.
    """
    program = f"loopwm {command}"
    if default is None:
        return tyro.cli(form, args=words, prog=program)
    return tyro.cli(form, args=words, prog=program, default=default)


def leading(words: list[str], default: str) -> str:
    """The name that the words begin with, on which the defaults of all others may depend."""
    return words[0] if words and not words[0].startswith("-") else default


def value_of(option: str, words: list[str]) -> str | None:
    """The value of one option, looked up before the others can be understood; None when it is absent."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument(option, nargs="?", dest="value")
    return reader.parse_known_args(words)[0].value


def wants_help(words: list[str]) -> bool:
    """Whether help is asked for."""
    return "-h" in words or "--help" in words

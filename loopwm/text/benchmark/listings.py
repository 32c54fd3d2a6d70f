"""Texts with their lists sorted: neither environment promises an order, and replaying the same actions changes it.

What is a list, in the words of ScienceWorld and ALFWorld:

- consecutive lines that begin with a tab (`\\n\\ta painting\\n\\tthe agent`): things in a room, doors, an inventory;
- consecutive numbered lines (`\\n0:\\tmove seed ...`), the readings of an ambiguous request: numbers are left out;
- what a bracket says after `containing `: `(containing a potato, a banana)`;
- what follows `is: `, `you see `, `you see: ` or `carrying: ` up to the end of the sentence: `On the table is: a
  battery, a switch, which is off.` and `On the shelf 1, you see a cd 2, and a pen 1.`

The last two are split at commas, and at `, and `, but not before `which is`, which belongs to the element before it. An
inner list is sorted before the list around it. Everything else keeps its order: sentences, `Apples, oranges, and
bananas mix to produce fruit salad.`, recipes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby

_BRACKET = re.compile(r"\(([^()]*)\)")
_SENTENCE = re.compile(r"((?: is: |you see:? |carrying: ))(?=\S)([^.:()\n]+)(?=\.|$)")
_COMMA = re.compile(r", (?!which is)(?:and )?")
_HELD = re.compile(r"\x01(\d+)\x02")
_CONTAINING = "containing "
_OPTION = re.compile(r"\d+:\t")


def normalised(text: str) -> str:
    """The text with every run of whitespace as one space, and none at the ends. Case is kept."""
    return " ".join(text.split())


def unordered(text: str) -> str:
    """The text, whitespace normalised, with the elements of every list in alphabetical order."""
    if "," not in text and "\n" not in text:
        return normalised(text)
    # A list that is sorted is held aside and leaves a mark without commas, so lists around it see one element.
    held: list[str] = []

    def hold(piece: str) -> str:
        held.append(piece)
        return f"\x01{len(held) - 1}\x02"

    def restored(piece: str) -> str:
        return _HELD.sub(lambda mark: held[int(mark[1])], piece)

    def bracket(match: re.Match[str]) -> str:
        inside = match[1]
        if inside.startswith(_CONTAINING):
            inside = _CONTAINING + _sorted_elements(sentences(inside.removeprefix(_CONTAINING)), restored)
        return hold(restored(f"({inside})"))

    def sentences(piece: str) -> str:
        return _SENTENCE.sub(lambda match: hold(match[1] + _sorted_elements(match[2], restored)), piece)

    text = text.replace("\x01", "").replace("\x02", "")
    while (inner := _BRACKET.sub(bracket, text)) != text:
        text = inner
    lines = [restored(sentences(line)) for line in text.split("\n")]
    return normalised("\n".join(_sorted_lines(lines)))


def _sorted_elements(elements: str, restored: Callable[[str], str]) -> str:
    return ", ".join(sorted(normalised(restored(element)) for element in _COMMA.split(elements)))


def _sorted_lines(lines: list[str]) -> list[str]:
    """Runs of lines of one kind sorted, where the kind is one of a list."""
    result: list[str] = []
    for kind, run in groupby(lines, _kind):
        block = list(run)
        if kind == "option":
            block = sorted(_OPTION.sub("", line, count=1) for line in block)
        result += sorted(block) if kind == "element" else block
    return result


def _kind(line: str) -> str:
    if line.startswith("\t"):
        return "element"
    return "option" if _OPTION.match(line) else "sentence"

"""Examples as the page shows them: true and predicted words side by side, with those that differ marked."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

from loopwm.text.benchmark.examples import CUT, Example, Said
from loopwm.text.report.stored import Asked


@dataclass(frozen=True)
class Piece:
    """Neighbouring words that are all the same in the other text, or all not."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Step:
    """One action and what was read after it.

    Attributes:
        number: from 1. action: in words. true, said: texts in pieces.
        right: an exact match. note: confidence and loops.
    """

    number: int
    action: str
    true: list[Piece]
    said: list[Piece]
    right: bool
    note: str


@dataclass(frozen=True)
class Worked:
    """One window.

    Attributes:
        title: which window. task, now: what is known of it, as far as an example keeps it.
        last: the step that counts. before: the steps on the way.
        others: label of another run -> its last step.
    """

    title: str
    task: str
    now: str
    last: Step
    before: list[Step]
    others: dict[str, Step]


def worked(asked: Asked) -> list[Worked]:
    """The stored examples, in the words of the leading run; none where none were kept."""
    kept = asked.result.examples
    if kept is None:
        return []
    return [_worked(asked, example) for example in kept.windows if asked.leading in example.answers]


def marked(true: str, said: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts, white space as single spaces, in pieces that are shared or not."""
    first, second = true.split(), said.split()
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        for words, found in ((first[a:b], pieces[0]), (second[c:d], pieces[1])):
            if words:
                found.append(Piece(" ".join(words), kind != "equal"))
    return pieces


def _worked(asked: Asked, example: Example) -> Worked:
    steps = _steps(example, example.answers[asked.leading])
    return Worked(
        title=f"{example.task_type}, {example.game}, t = {example.time}",
        task=example.description,
        now=example.now,
        last=steps[-1],
        before=steps[:-1],
        others={
            asked.label(name): _steps(example, said)[-1]
            for name, said in example.answers.items()
            if name != asked.leading and name in asked.runs
        },
    )


def _steps(example: Example, said: Said) -> list[Step]:
    found = []
    for k, (action, target, text) in enumerate(zip(example.actions, example.targets, said.texts, strict=True)):
        true, own = marked(target, text)
        found.append(Step(k + 1, action, true, own, said.right[k], _note(said, k, target, text)))
    return found


def _note(said: Said, k: int, target: str, text: str) -> str:
    parts = [f"confidence {said.confidence[k]:.2f}"]
    if said.loops is not None:
        parts.append(f"{said.loops[k]} loops")
    if said.loops_early is not None:
        parts.append(f"{said.loops_early[k]} when it may leave early")
    if not said.right[k] and target.split() == text.split() and target.endswith(CUT):
        parts.append("the difference is beyond what was kept")
    return ", ".join(parts)

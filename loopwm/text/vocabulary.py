"""Words as numbers: one token per word, digits one by one, letters where a word is unknown, and the number of a
character that was never seen. Nothing is lost but the kind of white space, which the benchmark does not count either.
"""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from loopwm.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BEGIN, END, UNKNOWN = "<pad>", "<begin>", "<end>", "<unknown>"
TASK, STATE, SEEN = "<task>", "<state>", "<seen>"
SPECIAL = (PAD, BEGIN, END, UNKNOWN, TASK, STATE, SEEN)
"""Their indices are their places here. `<task>`, `<state>` and `<seen>` open the parts of an observation."""
SPACE = "\u2581"
"""Stands for the space before a word, as part of its token."""
INSIDE = "##"
"""Marks a piece that goes on a word."""
ESCAPE = "\u2582"
"""Stands before and after the number, hexadecimal, of a character that the vocabulary lacks."""
_PIECES = rf"{SPACE}?[A-Za-z]{{1,100}}|{SPACE}?[0-9]|{SPACE}?[^{SPACE}A-Za-z0-9]|{SPACE}"


def plain(text: str) -> str:
    """White space as the benchmark sees it: one space between words, none around."""
    return " ".join(text.split())


@dataclass(frozen=True)
class Vocabulary:
    """What every index stands for.

    Attributes:
        words: the tokens; those of `SPECIAL` lead.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL)] != SPECIAL:
            raise UserError(f"A vocabulary begins with {', '.join(SPECIAL)}; this one is damaged: build it again.")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, texts: Iterable[str], most: int = 4000) -> Vocabulary:
        """Every word of `texts`, or the `most` frequent ones, and letters for all others.

        Raises:
            UserError: the package tokenizers is not installed.
        """
        library = _tokenizers()
        splitter = _splitting(library.Tokenizer(library.models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN)))
        counts: Counter[str] = Counter()
        for text in sorted(set(texts)):
            pieces = splitter.pre_tokenizer.pre_tokenize_str(_marked(plain(text)))
            counts.update(piece for piece, _ in pieces)
        letters = sorted(
            set(string.printable) - set(string.whitespace) | {c for word in counts for c in word} - {SPACE, ESCAPE}
        )
        marked = [*letters, ESCAPE]
        small = [SPACE, *(SPACE + c for c in marked), *marked, *(INSIDE + c for c in letters)]
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[:most]
        return cls(tuple(dict.fromkeys([*SPECIAL, *small, *frequent])))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        library = _tokenizers()
        model = library.models.WordPiece(
            self._index, unk_token=UNKNOWN, continuing_subword_prefix=INSIDE, max_input_chars_per_word=200
        )
        return _splitting(library.Tokenizer(model))

    @cached_property
    def _unknown(self) -> re.Pattern[str]:
        """A character that has no token of its own."""
        known = "".join(word for word in self.words if len(word) == 1 and word not in (SPACE, ESCAPE))
        return re.compile(f"[^{re.escape(known)} ]")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of every text, without `<begin>` and `<end>`."""
        known = [self._unknown.sub(lambda found: f"{ESCAPE}{ord(found[0]):x}{ESCAPE}", plain(text)) for text in texts]
        found = self._tokenizer.encode_batch([*map(_marked, known)], add_special_tokens=False)
        return [self._lettered(one.ids) for one in found]

    def _lettered(self, tokens: list[int]) -> list[int]:
        """Unknown words by their letters alone: a known word that one begins with is no part of it."""
        inside = self._inside
        goes_on = [token in inside for token in (*tokens[1:], 0)]
        if not any(goes_on):
            return tokens
        parts = [self.spelled(token) if on else [token] for token, on in zip(tokens, goes_on, strict=True)]
        return [token for part in parts for token in part]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, up to `<end>`; the inverse of `encode` up to white space."""
        found: list[str] = []
        for token in tokens:
            word = self.words[token]
            if word == END:
                break
            if word not in SPECIAL:
                found.append(word.removeprefix(INSIDE) if len(word) > len(INSIDE) else word)
        return plain(_ESCAPED.sub(_character, "".join(found).replace(SPACE, " ")))

    def spelled(self, index: int) -> list[int]:
        """A word of letters as it would be if the vocabulary lacked it; any other token as it is."""
        word = self.words[index]
        return [index] if word.startswith(INSIDE) or not word.removeprefix(SPACE).isalpha() else self.letters(word)

    def of_word(self, word: str) -> list[int]:
        """The tokens of a word, with SPACE before it or without: one, where it is known like that."""
        return [self._index[word]] if word in self._index else self.letters(word)

    def letters(self, word: str) -> list[int]:
        """A word of known characters, with SPACE before it or without, one by one."""
        others = word.removeprefix(SPACE)[1:]
        return [self._index[piece] for piece in (word.removesuffix(others), *(INSIDE + letter for letter in others))]

    @cached_property
    def _inside(self) -> frozenset[int]:
        """Pieces that go on a word."""
        return frozenset(i for i, word in enumerate(self.words) if word.startswith(INSIDE) and len(word) > len(INSIDE))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def index(self, special: str) -> int:
        """The index of a member of `SPECIAL`."""
        return SPECIAL.index(special)


def _marked(text: str) -> str:
    """With the mark before every word, so that a word is the same token at the start of a text as elsewhere."""
    return "".join(SPACE + word for word in text.split())


_ESCAPED = re.compile(f"{ESCAPE}([0-9a-f]{{1,6}}){ESCAPE}")


def _character(found: re.Match[str]) -> str:
    # What a model writes need not be the number of a character.
    return chr(number) if (number := int(found[1], 16)) <= sys.maxunicode else ""


def _splitting(tokenizer: Tokenizer) -> Tokenizer:
    """With what comes before looking words up: pieces are cut before the mark that stands for a space."""
    library = _tokenizers()
    tokenizer.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(_PIECES), "isolated")
    return tokenizer


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "Words are told apart by the package tokenizers, which is not installed; get it with "
            'pip install "loopwm[text]".'
        ) from None
    return tokenizers

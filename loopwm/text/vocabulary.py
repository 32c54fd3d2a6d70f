"""Words as numbers: one token per word, digits one by one, letters where a word is unknown. Nothing is lost but the
kind of white space, which the benchmark does not count either."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

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
_PIECES = rf"{SPACE}?[A-Za-z]+|{SPACE}?[0-9]|{SPACE}?[^{SPACE}A-Za-z0-9]|{SPACE}"


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
        """Every word of `texts`, or the `most` frequent ones, and letters for all others."""
        from tokenizers import Tokenizer, models

        splitter = _splitting(Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN)))
        counts: Counter[str] = Counter()
        for text in set(texts):
            pieces = splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
            counts.update(piece for piece, _ in pieces)
        letters = sorted(
            set(string.printable) - set(string.whitespace) | {c for word in counts for c in word} - {SPACE}
        )
        small = [SPACE, *(SPACE + c for c in letters), *letters, *(INSIDE + c for c in letters)]
        frequent = [word for word, _ in counts.most_common(most)]
        return cls(tuple(dict.fromkeys([*SPECIAL, *small, *frequent])))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer, models

        indices = {word: index for index, word in enumerate(self.words)}
        model = models.WordPiece(
            indices, unk_token=UNKNOWN, continuing_subword_prefix=INSIDE, max_input_chars_per_word=200
        )
        return _splitting(Tokenizer(model))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of every text, without `<begin>` and `<end>`."""
        return [one.ids for one in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, up to `<end>`; the inverse of `encode` up to white space."""
        found: list[str] = []
        for token in tokens:
            word = self.words[token]
            if word == END:
                break
            if word not in SPECIAL:
                found.append(word.removeprefix(INSIDE) if len(word) > len(INSIDE) else word)
        return plain("".join(found).replace(SPACE, " "))

    def index(self, special: str) -> int:
        """The index of a member of `SPECIAL`."""
        return SPECIAL.index(special)


def _splitting(tokenizer: Tokenizer) -> Tokenizer:
    """With what comes before looking words up: white space becomes one mark, and pieces are cut before it."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    return tokenizer

"""How well a predicted observation agrees with the true one, seven ways, each between 0 and 1.

    em              equal after whitespace normalisation, case kept
    em_unordered    the same with every list sorted, see loopwm/text/benchmark/listings.py
    token_f1        SQuAD's F1 over the multisets of words (Rajpurkar et al. 2016 and 2018)
    bleu4           sacrebleu's sentence BLEU with effective order
    bleu4_plain     the same without effective order: texts of fewer than four tokens are 0, even if they are equal
    entity_f1, entity_recall    F1 and recall over the multisets of lexicon entities

A text without words, or without entities, agrees fully with another such text, and not at all with any other.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loopwm.errors import UserError
from loopwm.text.benchmark.lexicon import Lexicon
from loopwm.text.benchmark.listings import normalised, unordered

METRICS = ("em", "em_unordered", "token_f1", "bleu4", "bleu4_plain", "entity_f1", "entity_recall")

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def exact_match(predicted: str, target: str) -> float:
    """1 if both are the same but for whitespace, else 0."""
    return float(normalised(predicted) == normalised(target))


def squad_words(text: str) -> list[str]:
    """Words as SQuAD compares them: lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def overlap(predicted: Counter[str], target: Counter[str]) -> tuple[float, float]:
    """F1 and recall of one multiset against another; both 1 if both are empty, both 0 if only one is."""
    if not predicted or not target:
        both_empty = float(not predicted and not target)
        return both_empty, both_empty
    common = (predicted & target).total()
    if not common:
        return 0.0, 0.0
    return 2 * common / (predicted.total() + target.total()), common / target.total()


class Scorer:
    """Every metric of pairs of texts. The same pair and the same text recur often, and are worked out once.

    Args:
        lexicon: what counts as an entity.

    Raises:
        UserError: sacrebleu is not installed.
    """

    def __init__(self, lexicon: Lexicon):
        self._lexicon = lexicon
        self._bleu = _sentence_bleu()
        self._pairs: dict[tuple[str, str], tuple[float, ...]] = {}
        self._forms: dict[str, tuple[str, str, Counter[str], Counter[str]]] = {}

    def score(self, predicted: str, target: str) -> tuple[float, ...]:
        """The values of `METRICS`, in their order."""
        pair = (predicted, target)
        if pair not in self._pairs:
            self._pairs[pair] = self._score(predicted, target)
        return self._pairs[pair]

    def table(self, predicted: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        """Scores (n, K, M) of n windows of K texts, M = len(METRICS).

        Raises:
            UserError: the shapes of predictions and targets differ.
        """
        if [len(texts) for texts in predicted] != [len(texts) for texts in targets]:
            raise UserError(
                f"There are predictions for {len(predicted)} windows and targets for {len(targets)}, or some window "
                "has another number of steps; one prediction is needed for every target."
            )
        rows = [
            [self.score(p, t) for p, t in zip(ps, ts, strict=True)] for ps, ts in zip(predicted, targets, strict=True)
        ]
        return np.array(rows, dtype=np.float64)

    def _score(self, predicted: str, target: str) -> tuple[float, ...]:
        text, listing, words, entities = self._form(predicted)
        true_text, true_listing, true_words, true_entities = self._form(target)
        return (
            float(text == true_text),
            # A system that writes no lines has the words of a list right, but its elements cannot be told apart.
            float(text == true_text or listing == true_listing),
            overlap(words, true_words)[0],
            *self._bleu_both(text, true_text),
            *overlap(entities, true_entities),
        )

    def _form(self, text: str) -> tuple[str, str, Counter[str], Counter[str]]:
        if text not in self._forms:
            self._forms[text] = (
                normalised(text),
                unordered(text),
                Counter(squad_words(text)),
                Counter(self._lexicon.entities(text)),
            )
        return self._forms[text]

    def _bleu_both(self, predicted: str, target: str) -> tuple[float, float]:
        if not target or not predicted:
            return float(predicted == target), float(predicted == target)
        score = self._bleu.sentence_score(predicted, [target])
        plain = self._bleu.compute_bleu(
            score.counts, score.totals, score.sys_len, score.ref_len, smooth_method="exp", effective_order=False
        )
        # sacrebleu's percentages exceed 100 by rounding.
        return min(score.score / 100, 1.0), min(plain.score / 100, 1.0)


def _sentence_bleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UserError('BLEU is computed by sacrebleu, which is not installed: pip install "loopwm[text]"') from None
    return BLEU(effective_order=True)

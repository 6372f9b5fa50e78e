"""Entities of tagged words, and their precision, recall and F1, by the rules of `seqeval`.

There are two readings of the same tags. The default reading follows conlleval.pl: an entity may
begin with `I-`, and IOB1, IOB2 and BIOES are read alike. The strict reading follows IOB2: an entity
begins with `B-` and continues with `I-` of the same type; all other tags are outside.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Entity(NamedTuple):
    type: str
    start: int  # the first word
    end: int  # the last word


def entities(tags: Iterable[str]) -> list[Entity]:
    """The entities of a sentence by conlleval's rules.

    The result equals `seqeval.metrics.sequence_labeling.get_entities(suffix=False)`: a tag's first
    letter is its prefix, the rest after one hyphen is its type, or "_" without a rest.
    """
    found, begin = [], 0
    before, before_type = "O", "_"
    for at, tag in enumerate([*tags, "O"]):
        prefix, kind = tag[:1], tag[1:].split("-", maxsplit=1)[-1] or "_"
        if _ends(before, prefix, before_type != kind):
            found.append(Entity(before_type, begin, at - 1))
        if _starts(before, prefix, before_type != kind):
            begin = at
        before, before_type = prefix, kind
    return found


def _ends(before: str, prefix: str, other_type: bool) -> bool:
    """Whether an entity ends before a tag."""
    if before in ("E", "S") or (before in ("B", "I") and prefix in ("B", "S", "O")):
        return True
    return other_type and before not in ("O", ".")


def _starts(before: str, prefix: str, other_type: bool) -> bool:
    """Whether an entity starts at a tag."""
    if prefix in ("B", "S") or (before in ("E", "S", "O") and prefix in ("E", "I")):
        return True
    return other_type and prefix not in ("O", ".")


def strict_entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence by strict IOB2: `B-x` and the `I-x` that follow.

    The result equals seqeval's `mode="strict", scheme=IOB2`. Hyphens at both ends of a type are
    stripped.
    """
    found: list[Entity] = []
    for at, tag in enumerate(tags):
        kind = tag[1:].strip("-") or "_"
        if tag[:1] == "B":
            found.append(Entity(kind, at, at))
        elif tag[:1] == "I" and found and found[-1].end == at - 1 and found[-1].type == kind:
            found[-1] = found[-1]._replace(end=at)
    return found


class Counts(NamedTuple):
    """The numbers of entities of one type, or of all types."""

    correct: int
    predicted: int
    gold: int

    def figures(self) -> dict[str, float]:
        """Precision, recall and F1; an undefined ratio (0/0) is 0, as in seqeval."""
        precision = self.correct / self.predicted if self.predicted else 0.0
        recall = self.correct / self.gold if self.gold else 0.0
        both = precision + recall
        f1 = 2 * precision * recall / both if both else 0.0
        return {"precision": precision, "recall": recall, "f1": f1, "support": self.gold}


def by_type(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    find: Callable[[Sequence[str]], list[Entity]] = entities,
) -> dict[str, Counts]:
    """The counts of each type, sorted by type.

    An entity is correct if a gold entity has the same type, first word and last word.

    Args:
      gold, predicted: the tags of each sentence, for the same sentences.
      find: `entities` or `strict_entities`.

    Raises:
      ValueError: a sentence has more or fewer predicted tags than words.
    """
    correct: Counter = Counter()
    of_gold: Counter = Counter()
    of_predicted: Counter = Counter()
    for number, (true, guess) in enumerate(zip(gold, predicted, strict=True)):
        if len(true) != len(guess):
            raise ValueError(f"sentence {number}: {len(true)} words, {len(guess)} predicted tags")
        wanted, got = set(find(true)), set(find(guess))
        of_gold.update(e.type for e in wanted)
        of_predicted.update(e.type for e in got)
        correct.update(e.type for e in wanted & got)
    types = sorted(of_gold | of_predicted)
    return {t: Counts(correct[t], of_predicted[t], of_gold[t]) for t in types}


def micro(counts: dict[str, Counts]) -> Counts:
    """The counts of all types together."""
    return Counts(*(sum(c[i] for c in counts.values()) for i in range(3)))


def figures(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """The figures of an evaluation: both readings, and the fraction of words with the right tag.

    The strict figures are NaN if a tag is not IOB2, because seqeval refuses such tags.

    Returns:
      precision, recall, f1, support, strict_precision, strict_recall, strict_f1, accuracy.
    """
    result = micro(by_type(gold, predicted)).figures()
    iob2 = all(tag[:1] in ("B", "I", "O") for tags in (*gold, *predicted) for tag in tags)
    strict = micro(by_type(gold, predicted, strict_entities)).figures()
    for name in ("precision", "recall", "f1"):
        result[f"strict_{name}"] = strict[name] if iob2 else math.nan
    words = sum(map(len, gold))
    right = sum(
        a == b for x, y in zip(gold, predicted, strict=True) for a, b in zip(x, y, strict=True)
    )
    return result | {"accuracy": right / words if words else math.nan}

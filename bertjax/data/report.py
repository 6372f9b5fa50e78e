"""The report on a corpus: counted while the corpus is tokenized, shown when it is stored.

The report lists facts, notes and, at its end, warnings. A warning means that most likely the wrong
text or the wrong vocabulary was used.
"""

import re
from collections import Counter
from collections.abc import Iterator

from bertjax.config import Config
from bertjax.data.corpus import Corpus
from bertjax.data.tokenizer_base import Tokenizer

MOST_UNKNOWN = 0.05  # of all tokens; with a fitting vocabulary well under 1% are unknown
CASED_VOCABULARY = 0.02  # of the pieces have a capital; 39% in BERT's cased vocabulary, 0% uncased
FEW_CAPITALS = 0.01  # of the documents; names and sentence starts give nearly every text a capital
MANY_CAPITALS = 0.05
# BERT's pairs are random with probability one half, and always if no sentence remains for B. If a
# third of the documents have a single sentence, at least two labels in three are "random".
MANY_SINGLE = 1 / 3
SHORT_DOCUMENT = 16  # tokens on average; fewer are titles and labels, hardly texts
MANY_MARKUP = 0.05
MANY_GARBLED = 0.01

_WARNING = "warning"
_NOT_RECORDS = (
    "sentence",
    "tokenizer training",
    "empty file",
    "another name",
    "file beside",
    "title line",
    "leftover",
)  # counted as left out, but not documents


def describe(part: Corpus, counts: dict, text_bytes: int, model: Tokenizer, config: Config) -> str:
    """The report as text: what was stored, what was left out and why, notes, and warnings."""
    lines = [f"{part.name:12}{'documents':>14}{'sentences':>16}{'tokens':>18}"]
    for split, count in counts.items():
        documents, sentences, tokens = (count[k] for k in ("documents", "sentences", "tokens"))
        lines.append(f"{split:12}{documents:14,}{sentences:16,}{tokens:18,}")
    total = {k: sum(count[k] for count in counts.values()) for k in ("documents", "tokens")}
    per_token = text_bytes / max(total["tokens"], 1)
    lines.append(f"{'text':12}{text_bytes / 1e6:,.1f} MB, {per_token:.2f} bytes a token")
    lines.append(f"{'vocabulary':12}{model.vocab_size:,} tokens, sha256 {model.sha256[:12]}")
    lines.append(f"{'left out':12}{part.reasons or 'nothing'}")
    notes = [
        *_form(part),
        *_heldout(part, counts["heldout"]["documents"], config),
        *_contents(part, total),
    ]
    warnings = [
        *_casing(part.seen, model),
        *_unknown(part.seen, part.unknown_words, total["tokens"]),
        *_records(part, total["documents"]),
        *_single_sentences(part.seen, total["documents"], config),
    ]
    lines += [f"{'note':12}{part.named(note)}" for note in notes]
    lines += [f"{_WARNING:12}{part.named(warning)}" for warning in warnings]
    return "\n".join(lines)


def split(report: str) -> tuple[str, str]:
    """A report's facts and notes, and its warnings ("" without any), both as lines."""
    lines = report.split("\n")
    loud = [line for line in lines if line.startswith(f"{_WARNING} ")]
    return "\n".join(line for line in lines if line not in loud), "\n".join(loud)


def _form(part: Corpus) -> Iterator[str]:
    data = part.data
    if data.source == "files" and data.txt_format == "auto":
        counts = {
            "of one sentence a line": part.seen["sentences"],
            "of one paragraph a line": part.seen["paragraphs"],
            "of prose": part.seen["prose"],
        }
        taken = [f"{count:,} documents {form}" for form, count in counts.items() if count]
        if taken:
            name = ".txt" if ".txt" in (data.files or "") else "text"
            yield (
                f"{name} read as {' and '.join(taken)}, by the start of each file; "
                "config.data.txt_format sets it"
            )
    if articles := part.seen["wiki"] + part.seen["wiki_json"]:
        yield f"{articles:,} articles of WikiExtractor, entities such as &lt; read as characters"
    if of_oscar := part.seen["oscar"]:
        yield f"{of_oscar:,} documents of OSCAR: their text is the field content"
    if cut := part.seen["cut"]:
        yield (
            f"{cut:,} documents end after 1 MiB of lines without a blank line; "
            "in the form of one sentence a line a blank line ends a document"
        )


def _heldout(part: Corpus, documents: int, config: Config) -> Iterator[str]:
    fix = "raise config.data.heldout_fraction or add text"
    if not documents:
        yield f"no document is held out for evaluation: the corpus is too small; {fix}"
    elif config.objective.nsp and documents == 1:
        yield f"1 document is held out, but sentence pairs need 2: no evaluation; {fix}"


def _contents(part: Corpus, total: dict[str, int]) -> Iterator[str]:
    documents = max(part.seen["documents"], 1)
    share = part.seen["markup"] / documents
    if share > MANY_MARKUP:
        yield f"{share:.0%} of the documents hold HTML tags or entities, which are read as text"
    share = part.seen["garbled"] / documents
    if share > MANY_GARBLED:
        yield f"{share:.0%} of the documents hold characters of a wrong decoding (�, â€)"
    mean = total["tokens"] / max(total["documents"], 1)
    has_field = part.data.source == "tfds" or part.seen["json"]
    if has_field and mean < SHORT_DOCUMENT:
        yield (
            f"documents have {mean:.1f} tokens on average: "
            f"is config.data.text_field={part.data.text_field!r} the field of the whole text?"
        )


def _casing(seen: Counter, model: Tokenizer) -> Iterator[str]:
    """Warns if text and vocabulary differ in casing; both are judged by their letters."""
    capital, share = _capitals(model)
    lowercases = model.lowercase
    letters, capitals = seen["letters"], seen["capitals"]
    if lowercases and share > CASED_VOCABULARY:
        yield (
            f"the vocabulary is cased ({share:.0%} of its pieces have a capital, such as "
            f"{capital!r}), but text is lower-cased first: such pieces are never used; take the "
            "files of a cased tokenizer, or an uncased vocabulary"
        )
    elif not lowercases and share > CASED_VOCABULARY and capitals <= FEW_CAPITALS * letters > 0:
        yield (
            f"the vocabulary is cased ({share:.0%} of its pieces have a capital), but "
            f"{1 - capitals / letters:.1%} of the documents have no capital letter: their text was "
            "lower-cased before; take the original text, or an uncased vocabulary"
        )
    elif not lowercases and not share and capitals > MANY_CAPITALS * letters:
        yield (
            f"no piece of the vocabulary has a capital, but {capitals / max(letters, 1):.0%} of "
            "the documents have one, and text is not lower-cased; set "
            "config.tokenizer.lowercase=True, or take a cased vocabulary"
        )


def _capitals(model: Tokenizer) -> tuple[str | None, float]:
    """A piece with a capital, and the share of such pieces.

    Byte-level BPE has a piece for each byte and writes some bytes as capitals, so its pieces of one
    character do not count.
    """
    special = set(model.special_ids)
    pieces = [model.tokens([i])[0] for i in range(model.vocab_size) if i not in special]
    if model.kind == "byte_bpe":
        found = [piece for piece in pieces if len(piece) > 1 and re.search("[A-Z]", piece)]
        return next(iter(found), None), max(len(found) / max(len(pieces), 1), 1e-9)
    found = [piece for piece in pieces if piece != piece.lower()]
    example = next((piece for piece in found if len(piece) > 2), None)
    return example, len(found) / max(len(pieces), 1)


def _unknown(seen: Counter, words: Counter, tokens: int) -> Iterator[str]:
    share = seen["unknown tokens"] / max(tokens, 1)
    if share > MOST_UNKNOWN:
        often = ", ".join(repr(word) for word, _ in words.most_common(3))
        often = f" ({often} most often)" if often else ""
        yield (
            f"{share:.1%} of the tokens are unknown to the vocabulary{often}: take a vocabulary"
            " of this language and casing (config.tokenizer.path), or unset the field to train one"
        )


def _records(part: Corpus, documents: int) -> Iterator[str]:
    reasons = {k: n for k, n in part.dropped.items() if not k.startswith(_NOT_RECORDS)}
    left_out = sum(reasons.values())
    if left_out > documents:
        yield (
            f"{left_out:,} of {left_out + documents:,} documents are left out "
            f"({', '.join(sorted(reasons))}): is config.data.text_field={part.data.text_field!r} "
            "the field of the text?"
        )


def _single_sentences(seen: Counter, documents: int, config: Config) -> Iterator[str]:
    share = seen["one sentence"] / max(documents, 1)
    if config.objective.nsp and share > MANY_SINGLE:
        yield (
            f"{share:.0%} of the documents have one sentence, so no next sentence: at least "
            f'{(1 + share) / 2:.0%} of the next-sentence labels are "random"; keep the sentences '
            "of a text in one document, or set config.objective.nsp=0 and "
            "config.examples.builder=full_sentences"
        )

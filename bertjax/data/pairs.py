"""The next-sentence formats: pairs of segments (BERT) and pairs of sentences, compiled.

The rules for segments come from google-research/bert, `create_pretraining_data.py`. They are
sequential, so the code is compiled and not vectorized. Both functions write `starts` and `lengths`
[N, 2] (A, B) and `is_random` [N], and return N.
"""

import numba
import numpy as np

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]


@numba.njit(cache=True, nogil=True)
def segments(
    sentence_ends: np.ndarray,
    documents: np.ndarray,
    sequence_length: int,
    short_seq_prob: float,
    rng: np.random.Generator,
    starts: np.ndarray,
    lengths: np.ndarray,
    is_random: np.ndarray,
) -> int:
    """Pairs of segments. The rules, in the order in which they use `rng`:

    1. The target length of a document is `sequence_length - 3`; with probability
       `short_seq_prob` it is uniform in [2, `sequence_length - 3`].
    2. Sentences are gathered until they reach the target or the document ends. A is the first
       k of them, k uniform; of two or more sentences, at least one remains for B.
    3. B is the remaining sentences. With probability one half, and whenever none remain, B is
       random instead: it starts at a uniform sentence of another uniform document and takes
       sentences until A and B reach the target or that document ends. The remaining sentences
       then open the next example.
    4. A pair that is too long loses tokens one by one from the longer side (from B when equal),
       each from the front or the back with probability one half.

    The reference draws the other document in up to ten attempts, and takes the same document
    after ten failures. Here the document is always another one; the distribution differs only
    by a probability of `num_documents ** -10`. With a single document no pair is random, and B is
    empty if no sentences remain.
    """
    count, most = 0, sequence_length - SPECIAL_TOKENS
    for document in range(len(documents) - 1):
        target = most
        if rng.random() < short_seq_prob:
            target = rng.integers(2, most + 1)
        first, end = documents[document], documents[document + 1]
        while first < end:
            last = _gather(sentence_ends, first, end, target)
            split = first + 1
            if last - first > 1:
                split += rng.integers(0, last - first - 1)
            a, a_end = sentence_ends[first], sentence_ends[split]
            random = len(documents) > 2 and (last - first == 1 or rng.random() < 0.5)
            if random:
                sentence, other_end = _random_sentence(documents, document, rng)
                stop = _gather(sentence_ends, sentence, other_end, target - (a_end - a))
                b, b_end = sentence_ends[sentence], sentence_ends[stop]
                first = split
            else:
                b, b_end = a_end, sentence_ends[last]
                first = last
            _write(a, a_end, b, b_end, most, rng, starts[count], lengths[count])
            is_random[count] = random
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def sentences(
    sentence_ends: np.ndarray,
    documents: np.ndarray,
    sequence_length: int,
    rng: np.random.Generator,
    starts: np.ndarray,
    lengths: np.ndarray,
    is_random: np.ndarray,
) -> int:
    """Pairs of single sentences (SENTENCE-PAIR+NSP), in the order of the documents.

    A is the next unused sentence. B is the sentence after A; with probability one half, and
    whenever the document ends with A, B is a uniform sentence of another uniform document instead.
    The sentence after A is then the next A. A pair that is too long is cut like a pair of segments.
    """
    count, most = 0, sequence_length - SPECIAL_TOKENS
    for document in range(len(documents) - 1):
        first, end = documents[document], documents[document + 1]
        while first < end:
            random = len(documents) > 2 and (first + 1 == end or rng.random() < 0.5)
            second = first + 1
            if random:
                second, _ = _random_sentence(documents, document, rng)
            a, a_end = sentence_ends[first], sentence_ends[first + 1]
            b = sentence_ends[second]
            b_end = sentence_ends[second + 1] if random or second < end else b
            first += 1 if random else 2
            _write(a, a_end, b, b_end, most, rng, starts[count], lengths[count])
            is_random[count] = random
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _gather(sentence_ends: np.ndarray, first: int, end: int, target: int) -> int:
    """The end (exclusive) of at least one sentence from `first` on, until `target` tokens."""
    last = first + 1
    while last < end and sentence_ends[last] - sentence_ends[first] < target:
        last += 1
    return last


@numba.njit(cache=True, nogil=True)
def _random_sentence(
    documents: np.ndarray, document: int, rng: np.random.Generator
) -> tuple[int, int]:
    """A uniform sentence of another uniform document, and that document's end."""
    other = rng.integers(0, len(documents) - 2)
    other += other >= document
    return rng.integers(documents[other], documents[other + 1]), documents[other + 1]


@numba.njit(cache=True, nogil=True)
def _write(
    a: int,
    a_end: int,
    b: int,
    b_end: int,
    most: int,
    rng: np.random.Generator,
    starts: np.ndarray,
    lengths: np.ndarray,
) -> None:
    starts[0], lengths[0], starts[1], lengths[1] = truncate(a, a_end - a, b, b_end - b, most, rng)


@numba.njit(cache=True, nogil=True)
def truncate(
    a: int, a_tokens: int, b: int, b_tokens: int, most: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Rule 4 in closed form: the number of tokens that each side loses does not depend on draws.

    The longer side shrinks to the length of the other, then both shrink in turn, B first. So the
    shorter side stays whole if it takes at most half of the room; otherwise A keeps the larger
    half. Only the number of tokens that a side loses at its front is random.
    """
    if a_tokens + b_tokens <= most:
        return a, a_tokens, b, b_tokens
    a_kept = min(a_tokens, max(most - b_tokens, most - most // 2))
    b_kept = most - a_kept
    a += rng.binomial(a_tokens - a_kept, 0.5)
    b += rng.binomial(b_tokens - b_kept, 0.5)
    return a, a_kept, b, b_kept

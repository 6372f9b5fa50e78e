"""A reference: the example rules of google-research/bert as a plain loop over lists.

Written after `create_pretraining_data.py` (`create_instances_from_document`,
`truncate_seq_pair`, `create_masked_lm_predictions`), one token at a time, with the same draws and
the same corner cases. Tokens are ids. Tests and benchmarks share this file.
"""

import itertools
import random
from typing import NamedTuple


class Pair(NamedTuple):
    a: list[int]
    b: list[int]
    is_random: bool


def documents_of(store, first=0, last=None) -> list[list[list[int]]]:
    """The documents of a store as lists of sentences, which are lists of token ids."""
    sentences = store.sentences.tolist()
    bounds = store.documents.tolist()[first:last]
    return [
        [store.tokens[sentences[s] : sentences[s + 1]].tolist() for s in range(begin, end)]
        for begin, end in itertools.pairwise(bounds)
    ]


def pairs(documents, sequence_length, short_seq_prob, rng: random.Random):
    """Yields the pairs of one pass over `documents`."""
    for number in range(len(documents)):
        yield from document_pairs(documents, number, sequence_length, short_seq_prob, rng)


def document_pairs(documents, number, sequence_length, short_seq_prob, rng):
    document = documents[number]
    most = sequence_length - 3
    target = rng.randint(2, most) if rng.random() < short_seq_prob else most
    chunk, chunk_tokens, i = [], 0, 0
    while i < len(document):
        chunk.append(document[i])
        chunk_tokens += len(document[i])
        if i == len(document) - 1 or chunk_tokens >= target:
            split = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
            a = [token for sentence in chunk[:split] for token in sentence]
            is_random = len(chunk) == 1 or rng.random() < 0.5
            if is_random:
                b = random_sentences(documents, number, target - len(a), rng)
                i -= len(chunk) - split
            else:
                b = [token for sentence in chunk[split:] for token in sentence]
            truncate(a, b, most, rng)
            yield Pair(a, b, is_random)
            chunk, chunk_tokens = [], 0
        i += 1


def random_sentences(documents, number, target, rng):
    for _ in range(10):
        other = rng.randint(0, len(documents) - 1)
        if other != number:
            break
    tokens = []
    for sentence in documents[other][rng.randint(0, len(documents[other]) - 1) :]:
        tokens.extend(sentence)
        if len(tokens) >= target:
            break
    return tokens


def truncate(a, b, most, rng):
    """Pops tokens in place."""
    while len(a) + len(b) > most:
        longer = a if len(a) > len(b) else b
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()


def mask(pair, tokenizer, masked_lm_prob, max_predictions, rng, word_starts=None):
    """`(input_ids, token_type_ids, positions, labels)` of a pair; `word_starts`: whole words."""
    cls_id, sep_id = tokenizer.cls_id, tokenizer.sep_id
    tokens = [cls_id, *pair.a, sep_id, *pair.b, sep_id]
    types = [0] * (len(pair.a) + 2) + [1] * (len(pair.b) + 1)
    words = []
    for position, token in enumerate(tokens):
        if token in (cls_id, sep_id):
            continue
        if word_starts is not None and words and not word_starts[token]:
            words[-1].append(position)
        else:
            words.append([position])
    rng.shuffle(words)
    wanted = min(max_predictions, max(1, round(len(tokens) * masked_lm_prob)))
    output, chosen = list(tokens), []
    for word in words:
        if len(chosen) >= wanted:
            break
        if len(chosen) + len(word) > wanted:
            continue
        for position in word:
            if rng.random() < 0.8:
                output[position] = tokenizer.mask_id
            elif rng.random() >= 0.5:
                output[position] = rng.randint(0, tokenizer.vocab_size - 1)
            chosen.append((position, tokens[position]))
    chosen.sort()
    return output, types, [p for p, _ in chosen], [t for _, t in chosen]

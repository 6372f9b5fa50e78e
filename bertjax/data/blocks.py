"""The formats without next-sentence prediction: FULL-SENTENCES and DOC-SENTENCES, compiled."""

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def fill(
    sentence_ends: np.ndarray,
    documents: np.ndarray,
    order: np.ndarray,
    sequence_length: int,
    across: bool,
    part_start: np.ndarray,
    part_length: np.ndarray,
    first_part: np.ndarray,
) -> tuple[int, int]:
    """Fills examples with whole sentences, as many as fit (Liu et al. 2019, section 4.2).

    Documents follow one another in `order`. Where one ends, `across` lets the example go on with
    the next one behind a [SEP] (FULL-SENTENCES); otherwise the example ends (DOC-SENTENCES). A
    sentence longer than an example is cut, and what is left of it opens the next example:
    no token is lost and none comes twice.

    Returns:
      The numbers of parts K and of examples N; `part_start`, `part_length` [K] and
      `first_part` [N + 1] are written.
    """
    parts, examples, room = 0, 0, sequence_length - 1  # [CLS] is in every example
    first_part[0] = 0
    for document in order:
        sentence, end = documents[document], documents[document + 1]
        start = sentence_ends[sentence]
        while sentence < end:
            stop = start
            while sentence < end and sentence_ends[sentence + 1] - start < room:  # and [SEP]
                stop = sentence_ends[sentence + 1]
                sentence += 1
            if stop == start and room == sequence_length - 1:
                stop = start + room - 1
            if stop > start:
                part_start[parts], part_length[parts] = start, stop - start
                parts += 1
                room -= stop - start + 1
                start = stop
            # Sentences are left and none of them fits, or the document has ended.
            if sentence < end or not across:
                examples += 1
                first_part[examples] = parts
                room = sequence_length - 1
    if parts > first_part[examples]:
        examples += 1
        first_part[examples] = parts
    return parts, examples

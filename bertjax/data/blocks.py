"""Input formats without next-sentence prediction: FULL-SENTENCES and DOC-SENTENCES, compiled."""

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

    Documents are read in the order `order`. At the end of a document, the example continues with
    the next document behind a [SEP] if `across` is set (FULL-SENTENCES); otherwise the example
    ends (DOC-SENTENCES). A sentence longer than an example is cut, and the rest of the sentence
    opens the next example. No token is lost or repeated.

    Returns:
      The number of parts K and the number of examples N. The function writes `part_start` and
      `part_length` [K], and `first_part` [N + 1].
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
            # The next sentence does not fit, or the document has ended.
            if sentence < end or not across:
                examples += 1
                first_part[examples] = parts
                room = sequence_length - 1
    if parts > first_part[examples]:
        examples += 1
        first_part[examples] = parts
    return parts, examples

"""Batches from a small store in memory."""

from types import SimpleNamespace

import numpy as np

from bertjax.config import Config, Objective, Phase
from bertjax.config.stages import Stage
from bertjax.data import pipeline

NO_NSP = Objective(nsp=0.0)
TOKENIZER = SimpleNamespace(
    pad_id=0, cls_id=1, sep_id=2, mask_id=3, marker_ids=(), vocab_size=60_000
)
PHASE = Phase(steps=100, sequence_length=32, batch_size=16)


def make_store(num_documents=60, seed=0):
    """A store with realistic lengths; token t of the corpus has id t + 4."""
    rng = np.random.default_rng(seed)
    sizes = rng.geometric(1 / 12, num_documents)
    sentences = np.cumsum([0, *rng.geometric(1 / 9, sizes.sum())])
    tokens = np.arange(4, 4 + sentences[-1], dtype=np.uint16)
    return SimpleNamespace(tokens=tokens, sentences=sentences, documents=np.cumsum([0, *sizes]))


STORE = make_store()


def make(cls=pipeline.Batches, store=STORE, phase=PHASE, phase_index=0, first_row=0, **config):
    stores = store if isinstance(store, list) else [store]
    stage = Stage("phase1", phase_index, phase, 0, phase.steps, first_row)
    return cls(stores, TOKENIZER, Config(**config), stage)

"""`bertjax pretrain` that also records the rows that each process trains on, in the folder RECORD.

A line for each step: `[step, rows, example ids, epochs, hash of every masked row]`. The masks come
from the function that the training step calls.
"""

import functools
import hashlib
import json
import os
import sys
import threading

import jax
import numpy as np

from bertjax import __main__
from bertjax.data import pipeline
from bertjax.pretraining import Pretraining

_new, _batch, _lock = pipeline.Batches.__init__, pipeline.Batches.batch, threading.Lock()


def _init(self, corpora, tokenizer, config, stage):
    _new(self, corpora, tokenizer, config, stage)
    self.masked = jax.jit(Pretraining(config, tokenizer).prepare(stage))
    self.first_step = stage.first_step


def _recorded(self, step, rows):
    batch = _batch(self, step, rows)
    with jax.default_device(jax.local_devices()[0]):
        masked = jax.device_get(self.masked(batch))
    hashes = [
        hashlib.sha256(b"".join(masked[name][i].tobytes() for name in sorted(masked))).hexdigest()
        for i in range(len(rows))
    ]
    ids, epochs = batch["example_ids"].tolist(), batch["mask_epochs"].tolist()
    line = [self.first_step + step, np.asarray(rows).tolist(), ids, epochs, hashes]
    path = os.path.join(os.environ["RECORD"], f"{os.getpid()}.jsonl")
    with _lock, open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
    return batch


pipeline.Batches.__init__ = functools.wraps(_new)(_init)
pipeline.Batches.batch = functools.wraps(_batch)(_recorded)
sys.exit(__main__.run(sys.argv))

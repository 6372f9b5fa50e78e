"""Whole runs of the program in separate processes, on real text, small enough to take seconds."""

import json
import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from xla_flags import CHEAP

from bertjax import convert
from bertjax.metrics import writer

CONFIG = """
from bertjax import config as config_lib

def get_config():
    config = config_lib.default()
    config.data.files = "{text}"
    config.data.heldout_fraction = 0.2
    config.data.num_workers = 1
    config.tokenizer.vocab_size = 400
    config.model.vocab_size = 0
    config.model.hidden_size = 32
    config.model.num_hidden_layers = 2
    config.model.num_attention_heads = 2
    config.model.intermediate_size = 64
    config.model.max_position_embeddings = 64
    config.phases.phase1 = config_lib.phase(
        steps=120, sequence_length=32, batch_size=8, max_predictions_per_seq=5)
    config.phases.phase2 = config_lib.phase(
        steps=40, sequence_length=64, batch_size=4, max_predictions_per_seq=10)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 10
    config.checkpoints.every_steps = 20
    config.evaluation.every_steps = 40
    config.evaluation.num_examples = 32
    config.evaluation.batch_size = 8
    config.logging.every_steps = 1
    config.logging.tensorboard = False
    return config
"""


def make_project(root):
    """Writes a config on real text (Python's own language reference) to the folder `root`."""
    from pydoc_data import topics

    documents = ["\n".join(t.split("\n\n")) for t in list(topics.topics.values())[:60]]
    lines = (json.dumps({"text": text}) for text in documents)
    (root / "text.jsonl").write_text("\n".join(lines) + "\n")
    (root / "config.py").write_text(CONFIG.format(text=root / "text.jsonl"))
    return root


def start(root, command, workdir, *overrides, **variables):
    # All processes of this module share one compilation, killed processes included.
    environment = os.environ | {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": CHEAP,
    }
    arguments = [f"--config={root}/config.py", f"--workdir={workdir}", *overrides]
    if command == "pretrain":
        arguments.append(f"--config.compilation_cache={root}/programs")
    else:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(root / "cache")
    return subprocess.Popen(
        [sys.executable, "-m", "bertjax", command, *arguments],
        env=environment | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def bertjax(root, command, workdir, *overrides):
    process = start(root, command, workdir, *overrides)
    process.stdout, process.stderr = process.communicate(timeout=300)
    return process


def losses(workdir):
    """All deterministic figures of metrics.jsonl, in order."""
    timing = {"seconds_per_step", "tokens_per_second", "mfu"}
    lines = writer.read(workdir / "metrics.jsonl")
    lines = [line for line in lines if "goodput/step" not in line]
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


def assert_same_run(workdir, whole, steps=160):
    assert losses(workdir) == losses(whole)
    ours, theirs = (convert.read(str(d)) for d in (workdir, whole))
    assert ours.step == theirs.step == steps
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def wait_for_step(process, workdir, step):
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        lines = writer.read(path) if path.exists() else []
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.02)
    if process.poll() is None:
        process.kill()
        pytest.fail(f"step {step} not reached: {process.communicate()}")


def cluster(count):
    """The environment variables with which each of `count` processes finds the others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return [
        {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        for index in range(count)
    ]

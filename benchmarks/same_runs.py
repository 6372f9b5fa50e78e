"""Short runs of every kind, which show that a change of the code changes no number.

Each run trains a small BERT on the language reference that Python carries, through the command line
only, so that any two commits can be compared. The record of a run is every deterministic figure in
its metrics.jsonl, and the SHA-256 of its final parameters.

    python -m benchmarks.same_runs --out before.json            # at the old commit
    python -m benchmarks.same_runs --against before.json        # at the new one: a table
    python -m benchmarks.same_runs --code OTHER_CHECKOUT --out before.json

The exit code is 1 if a run differs; the table then has the largest difference of a figure.
"""

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data import topics

CONFIG = """
from bertjax import config as config_lib

def get_config(arg=None):
    config = config_lib.default()
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
        steps=16, sequence_length=32, batch_size=16, max_predictions_per_seq=5)
    config.phases.phase2 = config_lib.phase(
        steps=8, sequence_length=64, batch_size=8, max_predictions_per_seq=10)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 4
    config.checkpoints.every_steps = 12
    config.evaluation.every_steps = 12
    config.evaluation.num_examples = 32
    config.evaluation.batch_size = 8
    config.logging.every_steps = 1
    config.logging.tensorboard = False
    if arg == "mixture":
        config.mixture.first = config_lib.component(
            0.7, files="{root}/first.jsonl", heldout_fraction=0.2, num_workers=1)
        config.mixture.second = config_lib.component(
            0.3, files="{root}/second.jsonl", heldout_fraction=0.2, num_workers=1)
    else:
        config.data.files = "{root}/first.jsonl"
    return config
"""

# Name -> argument of the config file, fields, fake devices, processes.
RUNS = {
    "segment pairs": ("", {}, 1, 1),
    "segment pairs, 8 devices": ("", {}, 8, 1),
    "2 x 2 x 2 devices": ("", {"mesh.fsdp": 2, "mesh.tensor": 2}, 8, 1),
    "sentence pairs": ("", {"examples.builder": "sentence_pair_nsp"}, 1, 1),
    "full sentences": ("", {"examples.builder": "full_sentences", "objective.nsp": 0}, 1, 1),
    "doc sentences, packed": (
        "",
        {"examples.builder": "doc_sentences", "objective.nsp": 0, "examples.max_per_row": 4},
        1,
        1,
    ),
    "pairs, packed, 8 devices": ("", {"examples.max_per_row": 3}, 8, 1),
    "mixture": ("mixture", {}, 1, 1),
    "mixture, packed": ("mixture", {"examples.max_per_row": 3}, 1, 1),
    "accumulation": ("", {"phases.phase1.micro_batch_size": 4}, 1, 1),
    "ramp": ("", {"phases.phase1.ramp_from": 4, "phases.phase1.ramp_steps": 8}, 1, 1),
    "clipped in parts": ("", {"optimizer.clip_mode": "per_shard"}, 1, 1),
    "LAMB, no dropout, span masks": (
        "",
        {
            "optimizer.name": "bert_lamb",
            "model.hidden_dropout_prob": 0.0,
            "model.attention_probs_dropout_prob": 0.0,
            "masking.unit": "span",
        },
        1,
        1,
    ),
    "two processes": ("", {}, 2, 2),
}
TIMED = {"seconds_per_step", "tokens_per_second", "mfu"}
HASH = """
import hashlib, sys
import jax, numpy as np
from bertjax import convert
model, digest = convert.read(sys.argv[1]), hashlib.sha256()
for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
    digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
print(model.step, digest.hexdigest())
"""


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="write what was recorded to this file")
    parser.add_argument("--against", help="compare with what --out wrote")
    parser.add_argument("--code", default=".", help="the checkout that runs (this one)")
    parser.add_argument("--only", help="runs whose name contains this")
    return parser.parse_args()


def make_project(root: Path):
    """Two corpora and a config that reads them."""
    texts = ["\n".join(text.split("\n\n")) for text in list(topics.topics.values())[:60]]
    for name, part in (("first", texts[:40]), ("second", texts[40:])):
        lines = (json.dumps({"text": text}) for text in part)
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (root / "config.py").write_text(CONFIG.replace("{root}", str(root)))


def record(root: Path, code: str, name: str) -> dict:
    """Runs one of `RUNS`; returns its figures and the hash of its parameters."""
    arg, fields, devices, processes = RUNS[name]
    workdir = root / name.replace(" ", "_").replace(",", "")
    command = [
        sys.executable,
        "-m",
        "bertjax",
        "pretrain",
        f"--workdir={workdir}",
        f"--config={root}/config.py" + f":{arg}" * bool(arg),
        *(f"--config.{field}={value}" for field, value in fields.items()),
    ]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(code).absolute()),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
        "JAX_COMPILATION_CACHE_DIR": "",
    }
    started = [
        subprocess.Popen(
            command,
            cwd=code,
            env=environment | variables,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for variables in cluster(processes)
    ]
    for process in started:
        _, errors = process.communicate(timeout=900)
        if process.returncode:
            sys.exit(f"{name}: exit code {process.returncode}: {errors[-2000:]}")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    figures = [
        {k: v for k, v in line.items() if k not in TIMED and not k.startswith("goodput/")}
        for line in lines
    ]
    hashed = subprocess.run(
        [sys.executable, "-c", HASH, str(workdir)],
        cwd=code,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    )
    step, digest = hashed.stdout.split()
    return {"step": int(step), "params": digest, "figures": [f for f in figures if len(f) > 1]}


def cluster(processes: int) -> list[dict]:
    """The environment variables that tell each process about the others."""
    if processes == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    return [
        dict(zip(names, (address, str(processes), str(i)), strict=True)) for i in range(processes)
    ]


def difference(old: dict, new: dict) -> float:
    """The largest relative difference of a figure; infinite if the runs have different figures."""
    if [sorted(line) for line in old["figures"]] != [sorted(line) for line in new["figures"]]:
        return float("inf")
    pairs = [(a[k], b[k]) for a, b in zip(old["figures"], new["figures"], strict=True) for k in a]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs)


def main():
    args = parse_arguments()
    old = json.loads(Path(args.against).read_text()) if args.against else {}
    found, differ = {}, 0
    print("| run | steps | figures | parameters | against |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        make_project(Path(root))
        for name in (name for name in RUNS if (args.only or "") in name):
            new = found[name] = record(Path(root), args.code, name)
            verdict = "-"
            if name in old:
                same = old[name] == new
                differ += not same
                verdict = "equal to the bit" if same else f"{difference(old[name], new):.1e}"
            figures = hashlib.sha256(json.dumps(new["figures"]).encode()).hexdigest()
            print(
                f"| {name} | {new['step']} | {figures[:12]} | {new['params'][:12]} | {verdict} |",
                flush=True,
            )
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=1))
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()

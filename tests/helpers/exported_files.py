"""Exported files of tiny fine-tuned models, and the other inputs of `bench-export`."""

import finetuned
import numpy as np

from bertjax.convert import onnx as onnx_out
from bertjax.device.asked import Asked

LENGTHS = (8, 16)


def write(root, kind="single", **fields):
    """Writes a run with random weights, its exports in float32 and int8, and a file of texts."""
    pretrained = finetuned.of_kind(kind, **fields)
    source = finetuned.write(pretrained, root / "run")
    onnx_out.write(pretrained, root / "float32.onnx")
    onnx_out.write_int8(pretrained, root / "int8.onnx")
    rng = np.random.default_rng(0)
    lines = [finetuned.letters(rng, rng.integers(3, 12)) for _ in range(200)]
    (root / "texts.txt").write_text("\n".join(lines) + "\n")
    return source


def asked(root, *names, **fields) -> Asked:
    """The request to `bench-export` for files in `root`."""
    given = {"lengths": LENGTHS, "runs": 3, "texts": str(root / "texts.txt")} | fields
    return Asked(tuple(str(root / name) for name in names), **given)

"""Exported files of tiny fine-tuned models, with what `bench-export` takes beside them."""

import finetuned
import numpy as np

from bertjax.convert import onnx as onnx_out
from bertjax.device.asked import Asked

LENGTHS = (8, 16)


def write(root, kind="single", **fields):
    """A run's directory with random weights, its exports in float32 and int8, a file of texts."""
    pretrained = finetuned.of_kind(kind, **fields)
    source = finetuned.write(pretrained, root / "run")
    onnx_out.write(pretrained, root / "float32.onnx")
    onnx_out.write_int8(pretrained, root / "int8.onnx")
    rng = np.random.default_rng(0)
    lines = [finetuned.letters(rng, rng.integers(3, 12)) for _ in range(200)]
    (root / "texts.txt").write_text("\n".join(lines) + "\n")
    return source


def asked(root, *names, **fields) -> Asked:
    """What is asked of files in `root`."""
    given = {"lengths": LENGTHS, "runs": 3, "texts": str(root / "texts.txt")} | fields
    return Asked(tuple(str(root / name) for name in names), **given)

"""Time and memory of `bertjax convert` for a model of Base size; each conversion is a process.

The weights are random weights of BERT Base for pretraining (440 MB in float32), with Adam's moments
if a form holds them (1.3 GB). Peak memory is the process's own high-water mark, libraries included;
`imports` is that mark after `import jax` and Orbax alone.

    python -m benchmarks.convert [--directory=/tmp/convert]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax.convert import hf, names, orbax
from bertjax.convert.pretrained import Pretrained, config_of

CHILD = """
import sys, time
started = time.time()
from bertjax.__main__ import run
code = run(["bertjax", *sys.argv[1:]]) if sys.argv[1:] else __import__("bertjax.checkpoints.manager") and 0
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.time() - started, time.process_time(), int(peak.split()[1]) * 1024)
sys.exit(code)
"""

CONVERSIONS = (
    ("hf:hf", "orbax:orbax"),
    ("orbax:orbax", "hf:again"),
    ("hf:hf", "hf:same"),
    ("orbax:run", "tf1:tf1/model.ckpt"),
    ("tf1:tf1/model.ckpt", "orbax:back"),
    ("orbax:run", "hf:from_run"),
    ("hf:hf", "tf1:weights/model.ckpt"),
    ("hf:hf", "onnx:base.onnx"),
    ("hf:hf", "onnx-int8:base8.onnx"),
    ("hf:hf", "stablehlo:base.stablehlo"),
)


def base(rng: np.random.Generator) -> Pretrained:
    model = config_lib.Model()

    def tree():
        params: dict = {}
        for path, shape in names.shapes(model).items():
            value = rng.standard_normal(shape, np.float32) * np.float32(0.02)
            if path in names.VOCAB_ROWS:
                value[model.vocab_size :] = 0
            names.insert(params, path, value)
        return params

    config = config_of(model, config_lib.Tokenizer(), "base")
    return Pretrained(config, None, tree(), step=1000, moments={"mu": tree(), "nu": tree()})


def measure(directory: Path, *arguments: str) -> tuple[float, float, float]:
    """Wall-clock seconds, processor seconds and peak bytes of one process."""
    process = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    if process.returncode:
        sys.exit(process.stderr)
    wall, cpu, peak = map(float, process.stdout.splitlines()[-1].split())
    return wall, cpu, peak


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, help="where 10 GB may be written for a moment")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        directory = Path(scratch)
        model = base(np.random.default_rng(0))
        hf.write(model, directory / "hf")
        orbax.write(model, directory / "run")
        del model
        wall, cpu, peak = measure(directory)
        print(f"imports: {wall:.1f} s, {peak / 1e6:.0f} MB; load {os.getloadavg()[0]:.1f}")
        print("| from | to | seconds | processor seconds | peak MB |\n|---|---|---|---|---|")
        for source, destination in CONVERSIONS:
            wall, cpu, peak = measure(directory, "convert", source, destination)
            print(f"| {source} | {destination} | {wall:.1f} | {cpu:.1f} | {peak / 1e6:.0f} |")
            path = destination.partition(":")[2]
            if path not in ("orbax", "tf1/model.ckpt"):
                target = directory / Path(path).parts[0]
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

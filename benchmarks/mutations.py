"""Changes lines that matter, one at a time, and runs the tests that should notice.

    python benchmarks/mutations.py

Prints a table row for each line: its place, the change, and the tests that noticed. The exit code
is 1 if no test noticed a change.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MUTATIONS = [  # file under bertjax/, the line's words, what they become, tests
    (
        "data/masking.py",
        "masking.mask_token_prob + masking.random_token_prob",
        "masking.mask_token_prob",
        "data/test_masking.py",
    ),
    ("data/pairs.py", "first = split\n", "first = last\n", "data/test_examples.py"),
    ("data/pairs.py", "most - most // 2)", "most // 2)", "data/test_examples.py"),
    (
        "data/epochs.py",
        "numbers[0], self.pattern(epoch), _EXAMPLES",
        "numbers[0], epoch, _EXAMPLES",
        "data/test_pipeline.py",
    ),
    (
        "data/mixture.py",
        "block * self.counts[labels[places]] + before[places]",
        "before[places]",
        "data/test_mixture_rows.py",
    ),
    (
        "models/encoder.py",
        "self.output(inner_BLF), c.hidden_dropout_prob, keys[2]",
        "self.output(inner_BLF), c.hidden_dropout_prob, keys[1]",
        "models/test_models.py",
    ),
    (
        "models/heads.py",
        "jnp.where(real_V, logits_BPV, -jnp.inf)",
        "logits_BPV",
        "models/test_models.py",
    ),
    (
        "optimizer.py",
        'range(1 if path[0].key == "blocks" else 0, weights.ndim)',
        "range(weights.ndim)",
        "test_optimizer.py",
    ),
    (
        "checkpoints/integrity.py",
        'for what in ("bytes", kind):',
        'for what in ("bytes",):',
        "checkpoints/test_checkpoint.py",
    ),
    (
        "checkpoints/steps.py",
        "for leaving in sealed[:-keep]:",
        "for leaving in places[:-keep]:",
        "checkpoints/test_checkpoint.py",
    ),
]


def main():
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "bertjax"
        for name in ("bertjax", "tests", "configs", "launch", "pyproject.toml"):
            put = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            (copy / name).parent.mkdir(exist_ok=True)
            put(ROOT / name, copy / name)
        for name, old, new, tests in MUTATIONS:
            path = copy / "bertjax" / name
            text = path.read_text()
            assert text.count(old) == 1, (name, old)
            path.write_text(text.replace(old, new))
            noticed = first_failure(copy, tests)
            path.write_text(text)
            line = text[: text.index(old)].count("\n") + 1
            old, new = old.strip(), new.strip()
            print(f"| `{name}:{line}` | `{old}` -> `{new}` | {noticed or 'NOTHING'} |", flush=True)
            missed += noticed is None
    return missed > 0


def first_failure(copy, tests):
    command = [sys.executable, "-m", "pytest", "-qx", "-m", "not slow", f"tests/{tests}"]
    output = subprocess.run(command, cwd=copy, capture_output=True, text=True).stdout
    found = re.search(r"^FAILED \S+::(\w+)", output, re.MULTILINE)
    assert found or " passed" in output, output
    return found and f"`{found[1]}`"


if __name__ == "__main__":
    sys.exit(main())

"""The notebooks run from top to bottom, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from xla_flags import CHEAP

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def code_of(path):
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_there_are_three_and_their_outputs_are_stripped():
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    environment = os.environ | {"MPLBACKEND": "Agg", "XLA_FLAGS": CHEAP, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(code_of(path))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert run.stdout

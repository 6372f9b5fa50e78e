"""The import rules of the package, read off its syntax trees."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bertjax"

# Folders and files of the top, from the bottom up. Each may import its own tier and those before it;
# where one tier holds several, they do not import each other.
TIERS = (
    ("errors",),
    ("storage", "processor"),
    ("commands", "config", "processes"),
    ("data", "keys"),
    ("models",),
    ("compiler", "objectives", "optimizer", "sharding", "metrics"),
    ("checkpoints",),
    ("workdir",),
    ("job",),
    ("train",),
    ("kernels", "evaluate", "convert"),
    ("initial", "inference", "plot"),
    ("loop", "distill"),
    ("pretraining", "finetune"),
    ("plan",),
    ("command_line", "source_commands", "library"),
    ("device",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(TIERS) for name in names}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield path, parts, ast.parse(path.read_text())


def imported(tree):
    """`(module, top-level statement?)` for everything a file imports, submodules spelled out."""
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in top


def dotted(parts):
    return ".".join(("bertjax", *parts)).removesuffix(".__init__")


def imports_of(path, tree, names):
    """The modules of the package that a file imports; `from bertjax.config import Model` is config."""
    for name, _ in imported(tree):
        while name not in names and "." in name:
            name = name.rpartition(".")[0]
        if name in names and name != "bertjax":
            yield name


def graph():
    files = {dotted(parts): (path, tree) for path, parts, tree in modules()}
    return {name: set(imports_of(path, tree, files)) for name, (path, tree) in files.items()}


def test_folders_import_one_way():
    for importer, targets in graph().items():
        if importer == "bertjax":
            continue
        for target in targets:
            above, below = importer.split(".")[1], target.split(".")[1]
            assert {above, below} <= LEVEL.keys(), f"{above}, {below}: no tier in this test"
            assert above == below or LEVEL[above] > LEVEL[below], f"{importer} imports {target}"


def test_files_import_one_way_inside_their_folders_too():
    graphlib.TopologicalSorter(graph()).prepare()  # raises CycleError


def test_flax_only_under_models():
    for path, parts, tree in modules():
        if parts[0] != "models":
            assert not any(name.split(".")[0] == "flax" for name, _ in imported(tree)), path


def test_no_tensorflow_or_transformers_and_torch_only_where_its_files_are_read():
    homes = {"onnxruntime": ("convert", "device")}  # who writes its files, and who runs them
    for path, parts, tree in modules():
        for name, top in imported(tree):
            library = name.split(".")[0]
            assert library not in ("tensorflow", "transformers"), path
            if library in ("torch", "onnx", "onnxruntime", "huggingface_hub"):
                assert parts[0] in homes.get(library, ("convert",)), path
                assert not top, f"{path} imports {name} whether it is needed or not"


def test_readers_refuse_before_jax_is_imported():
    """A hostile source must not cost the seconds that JAX takes to start."""
    for path, parts, tree in modules():
        if parts[0] == "convert":
            late = {"bertjax.models", "bertjax.checkpoints", "bertjax.train", "bertjax.workdir"}
            for name, top in imported(tree):
                package = ".".join(name.split(".")[:2])
                assert not (top and (name.split(".")[0] == "jax" or package in late)), path


LIGHT = (
    "import bertjax.data.prepare, bertjax.data.tokenize, bertjax.data.report",  # and its workers
    "import bertjax.data.train_tokenizer",
    "import bertjax.__main__, bertjax.command_line",
    "import bertjax.initial, bertjax.workdir, bertjax.config",
    "import bertjax.processes.lock, bertjax.checkpoints.steps",
    "import bertjax; bertjax.load, bertjax.pretrain, bertjax.default_config('bert_base')",
    "import bertjax.convert; from bertjax.convert import hf_tokenizer, names, torch_file",
)


@pytest.mark.parametrize("statement", LIGHT)
def test_starts_without_jax(statement):
    """JAX takes a second and 200 MB: of each worker of `prepare`, of a command that only refuses."""
    code = f"{statement}; import sys; sys.exit(sorted(m for m in sys.modules if m == 'jax') or 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

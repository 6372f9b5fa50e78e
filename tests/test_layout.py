"""The import rules of the package, read off its syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "bertjax"

# Each tier may import itself and the tiers before it.
TIERS = (
    {
        "errors",
        "storage",
        "streams",
        "event_files",
        "growing",
        "goodput",
        "next_steps",
        "watchdog",
        "peers",
        "owner",
        "lock",
        "config",
        "config_arg",
        "config_checks",
        "config_data",
        "config_embedding",
        "config_file",
        "config_help",
        "config_names",
        "config_rules",
        "config_values",
        "config_tree",
        "stages",
    },
    {"data"},
    {"keys"},
    {"models"},
    {"objectives", "optimizer", "sharding", "metrics"},
    {"integrity"},
    {"signature", "steps"},
    {"checkpoint", "distributed", "workdir"},
    {"train", "evaluate"},
    {"convert"},
    {"initial"},
    {"hlo", "hlo_cost", "topology", "roofline"},
    {"loop", "inference", "plot", "recipe", "plan", "plan_search", "plan_report"},
    {"command_line"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(TIERS) for name in names}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield path, parts, ast.parse(path.read_text())


def imported(tree):
    """`(module, top-level statement?)` for everything a file imports, submodules spelt out."""
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in top


def test_imports_run_one_way():
    for path, parts, tree in modules():
        if parts == ("__init__",):
            continue
        for name, _ in imported(tree):
            target = name.split(".")
            if target[0] == "bertjax" and len(target) > 1:
                assert target[1] in LEVEL, f"{path}: {name} has no tier in this test"
                assert LEVEL[target[1]] <= LEVEL[parts[0]], f"{path} imports {name}"


def test_flax_only_under_models():
    for path, parts, tree in modules():
        if parts[0] != "models":
            assert not any(name.split(".")[0] == "flax" for name, _ in imported(tree)), path


def test_no_tensorflow_or_transformers_and_torch_only_where_its_files_are_read():
    for path, parts, tree in modules():
        for name, top in imported(tree):
            library = name.split(".")[0]
            assert library not in ("tensorflow", "transformers"), path
            if library in ("torch", "onnx", "onnxruntime", "huggingface_hub"):
                assert parts[0] == "convert", path
                assert not top, f"{path} imports {name} whether it is needed or not"


def test_readers_refuse_before_jax_is_imported():
    """A hostile source must not cost the seconds that JAX takes to start."""
    for path, parts, tree in modules():
        if parts[0] == "convert":
            late = {"bertjax.models", "bertjax.checkpoint", "bertjax.train", "bertjax.workdir"}
            for name, top in imported(tree):
                assert not (top and (name.split(".")[0] == "jax" or name in late)), path


def test_workers_that_tokenise_do_not_import_jax():
    """Otherwise every worker process of `prepare` would pay for it in memory and start-up."""
    light = {"prepare", "beam", "corpus", "report", "lines", "tokenise", "sources", "documents",
             "store", "tokenizer", "tokenizer_base", "byte_bpe", "identity", "used", "vocabulary",
             "train_tokenizer", "tokenizer_files", "tokenizer_settings", "added_tokens",
             "wordpiece", "sentence_piece"}  # fmt: skip
    for path, parts, tree in modules():
        if parts[0] == "data" and parts[-1] in light:
            assert not any(name.split(".")[0] == "jax" for name, _ in imported(tree)), path


def test_a_command_line_is_read_without_jax():
    """Most commands refuse in a tenth of a second what they cannot do; JAX takes a whole one."""
    code = "import sys, bertjax.__main__, bertjax.command_line; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

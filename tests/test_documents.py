"""README and docs/: links lead somewhere, commands and fields exist, tables come from the code.

`<!-- runs -->` before a block of a page says that the slow test runs it, on small configs of the
same names (helpers/pages.py).
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest
import yaml
from xla_flags import CHEAP

from bertjax import command_line, errors
from bertjax import config as config_lib
from bertjax.__main__ import COMMANDS
from bertjax.config import help as config_help
from bertjax.config import tree as config_tree
from bertjax.errors import UsageError

ROOT = pages.ROOT
RUN = [page for page in pages.PAGES if any(block.runs for block in pages.blocks(page))]


def hook(name):
    """A script of docs/hooks/, as the site's builder loads it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/hooks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short_and_starts_with_the_two_commands():
    text = pages.read("README.md")
    assert len(text.split()) <= 1200
    first = "\n".join(text.splitlines()[:25])
    assert "make quickstart" in first
    assert "make test" in first


def test_the_citation_names_the_version_of_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'version="{cited["version"]}"' in (ROOT / "setup.py").read_text()
    assert cited["authors"]


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", pages.prose(page)):
        place, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", place):
            continue
        path = (ROOT / page).parent / place if place else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            other = path.resolve().relative_to(ROOT).as_posix()
            assert anchor in pages.anchors(other), f"{page}: {target}"


COMMAND_LINES = [(page, tuple(words)) for page in pages.PAGES for words in pages.commands(page)]


def test_command_lines_are_found():
    assert ("README.md", ("convert", "W", "hf:bert-tiny")) in COMMAND_LINES
    assert len(COMMAND_LINES) > 40


@pytest.mark.parametrize(("page", "words"), COMMAND_LINES)
def test_every_command_of_the_pages_parses(page, words, monkeypatch):
    """Flags, fields, values and config files are those of today; `...` stands for others."""
    monkeypatch.chdir(ROOT)
    name, *argv = [word for word in words if word != "..." and not word.endswith("=...")]
    if name.startswith("--"):
        assert command_line.asked_text(name, argv, COMMANDS)
        return
    takes_config = COMMANDS[name].reads_config and not COMMANDS[name].makes_config
    if takes_config and not any(word.startswith("--config=") for word in argv):  # the run's own
        argv.insert(0, "--config=configs/quickstart.py")
    if "--help" in argv:
        return
    values, _ = command_line.parse(name, argv, COMMANDS)
    if takes_config:
        config_lib.from_config_dict(values.config)


def test_python_on_the_pages_is_python():
    found = [b for page in pages.PAGES for b in pages.blocks(page) if b.language == "python"]
    assert found
    for block in found:
        compile(block.text, block.text, "exec")


FIELDS = set(config_tree.paths(config_lib.Config))
GROUPS = "|".join(sorted({path.split(".")[1] for path in FIELDS if path.count(".") > 1}))
_FILES = ("py", "json", "pt", "onnx", "jsonl", "ckpt")


@pytest.mark.parametrize("page", [p for p in pages.PAGES if not p.startswith("benchmarks/")])
def test_every_field_of_the_pages_exists(page):
    for name in re.findall(r"--config\.([\w.]+)", pages.prose(page)):
        if name.isupper():
            continue  # FIELD
        config_help.type_of(f"config.{name}")
    named = re.findall(rf"`(?:config\.)?((?:{GROUPS})\.[\w.*]+)", pages.prose(page))
    for name in named:
        path = "config." + re.sub(r"^(phases|mixture)\.(\*|\w+)\.", r"\1.NAME.", name)
        if name.rpartition(".")[2] not in _FILES:
            assert path in FIELDS or name.startswith("mixture."), f"{page}: {name}"


def test_a_wrong_field_and_a_wrong_flag_are_noticed(monkeypatch):
    with pytest.raises(UsageError):
        config_help.type_of("config.mesh.fdsp")
    with pytest.raises(UsageError):
        test_every_command_of_the_pages_parses("", ("plan", "--topolgy=v5e:4x4"), monkeypatch)


def test_the_tables_hold_every_field_command_code_and_array():
    tables = hook("reference").TABLES
    made = {name: make() for name, make in tables.items()}
    for path in FIELDS:
        group, _, field = path.rpartition(".")
        group = group.replace("phases.NAME", "phases.phase1")
        assert f"| `{field}` |" in made["config_fields"].partition(f"## `{group}`\n")[2], path
    for name in COMMANDS:
        assert f"## {name}\n" in made["commands"]
    for code in (errors.DONE, errors.RESTART, errors.USAGE, errors.DATA, errors.INTERRUPTED):
        assert f"| {code} |" in made["exit_codes"]
    for path in (ROOT / "configs").glob("*.py"):
        assert f"`configs/{path.name}`" in made["configs"]
    asked = {
        name for page in pages.PAGES for name in hook("reference")._MARK.findall(pages.read(page))
    }
    assert asked == tables.keys()
    for text in made.values():
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert rows == [] or {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 4, 5}


def test_links_of_the_repository_become_those_of_the_site():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    to_site = hook("pages").to_site
    cases = (
        ("how-to/plan.md", "../../benchmarks/RESULTS.md#gs", "../benchmarks/RESULTS.md#gs"),
        ("how-to/plan.md", "../explanations/bert.md", "../explanations/bert.md"),
        ("benchmarks/RESULTS.md", "bert_mini.png", "bert_mini.png"),
        ("launch/README.md", "../docs/tutorials/gke.md", "../tutorials/gke.md"),
        ("CONTRIBUTING.md", "docs/notebooks/a.ipynb", "notebooks/a.md"),
        ("index.md", "../README.md", "index.md"),
    )
    for page, written, wanted in cases:
        assert to_site(f"see [it]({written}).", page) == f"see [it]({wanted})."


def test_a_notebook_becomes_a_page():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    text = """{"cells": [
      {"cell_type": "markdown", "source": ["# A title\\n", "text"]},
      {"cell_type": "code", "source": ["1 + 1"],
       "outputs": [{"data": {"text/plain": ["2"]}}, {"text": ["printed\\n"]},
                   {"data": {"image/png": "AAAA\\n", "text/plain": ["<Figure>"]}}]}]}"""
    page = hook("pages").notebook(text)
    assert page.startswith("# A title\ntext\n\n```python\n1 + 1\n```\n\n```text\n2\n```")
    assert page.endswith("printed\n```\n\n![output](data:image/png;base64,AAAA)\n")


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    found = re.findall(r"^ +- .*: ([\w/-]+\.(?:md|ipynb))$", text, re.MULTILINE)
    assert yaml.safe_load(text)["theme"]["font"] is False
    inside = {p.removeprefix("docs/") for p in pages.PAGES if p.startswith("docs/")}
    inside |= {
        p.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        for p in (ROOT / "docs").rglob("*.ipynb")
    }
    outside = {"launch/README.md", "benchmarks/RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    assert set(found) == inside | outside | {"SECURITY.md"}
    assert len(found) == len(set(found))


@pytest.mark.slow
def test_the_site_is_built_strictly_and_its_pages_fetch_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    subprocess.run(command, cwd=ROOT, check=True)
    fields = (tmp_path / "site/reference/config.html").read_text()
    assert "num_hidden_layers" in fields
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the pages name, and a small model: `runs/quickstart`, `hf:DIR`."""
    folder = pages.make_folder(tmp_path_factory.mktemp("pages") / "files")
    run(
        folder,
        "start",
        "bertjax pretrain --config=configs/bert_base.py --workdir=../files/runs/quickstart "
        "--config.data.files=corpus.jsonl.gz --config.tokenizer.path=vocab.txt\n"
        "bertjax convert ../files/runs/quickstart hf:../files/DIR\n",
    )
    return folder


def run(folder, name, script):
    """Runs a script as a reader would, in a new folder with the files of `folder`; returns it."""
    place = folder.parent / name
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).symlink_to(path)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs"),
        "XLA_FLAGS": CHEAP,
    }
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=place,
        env=environment,
        text=True,
        capture_output=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_says_that_it_runs_runs(page, folder):
    script = "".join(block.script for block in pages.blocks(page) if block.runs)
    place = run(folder, Path(page).stem, script)
    table = pages.read("docs/reference/workdir.md")  # has all that W holds
    for metrics in place.glob("*/metrics.jsonl"):
        for path in metrics.parent.iterdir():
            assert f"`{path.name}`" in table or f"`{path.name}/`" in table, path

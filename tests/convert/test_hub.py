"""Pull and push in real processes, against a Hub on the loopback and no other network."""

import dataclasses
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from fake_hub import DROP, HALF, TOKEN, FakeHub
from random_models import equal, random_model

from bertjax import convert
from bertjax.config.embedding_fields import Embedding
from bertjax.convert import hf, hf_files, orbax, sentence_encoder
from bertjax.data import tokenizer, tokenizer_files

ROOT = Path(__file__).parents[2]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
PIECES += [f"##{a}{b}" for a in "etaoinshrd" for b in "etaoinshrd"][: 99 - len(PIECES)]


@pytest.fixture
def hub(tmp_path):
    with FakeHub(tmp_path / "served") as server:
        yield server


@pytest.fixture
def bertjax(tmp_path, hub):
    """Runs `bertjax convert SRC DST`; returns the exit code and stderr without progress bars.

    With `terminal`, a file descriptor, both outputs go there, bars and all.
    """

    def run(source, destination, terminal=subprocess.PIPE, **changes):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environment |= {
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            **{f"{scheme}_PROXY": hub.url for scheme in ("HTTP", "HTTPS", "ALL")},
        }
        for name in ("no_proxy", "http_proxy", "https_proxy", "all_proxy"):
            environment[name] = environment[name.upper()]
        process = subprocess.run(
            [sys.executable, "-m", "bertjax", "convert", source, destination],
            cwd=tmp_path,
            env=environment | changes,
            text=True,
            timeout=120,
            stdout=terminal,
            stderr=terminal,
        )
        assert "Traceback" not in (process.stderr or "")
        return process.returncode, process.stderr

    return run


def model(seed=0):
    """A tiny BERT at step 17 with a vocabulary of 99 pieces."""
    pretrained = random_model(seed=seed)
    wordpiece = tokenizer.WordPiece(PIECES, True)
    group = dataclasses.replace(pretrained.config.tokenizer, vocab_size=99)
    config = dataclasses.replace(pretrained.config, tokenizer=group)
    return dataclasses.replace(pretrained, config=config, tokenizer=wordpiece)


def folder_of(pretrained, path):
    hf.write(pretrained, path)
    files = [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def test_a_sentence_encoder_is_pushed_and_pulled_whole(hub, bertjax, tmp_path):
    """With the folder of its pooling; of other folders nothing is requested."""
    how = Embedding("cls", 16, True)
    plain = model()
    source = dataclasses.replace(plain, config=dataclasses.replace(plain.config, embedding=how))
    files = folder_of(source, tmp_path / "folder")
    assert "1_Pooling/config.json" in files
    hub.add("me/tiny", {"onnx/model.json": b"{}", "1_Pooling/deeper/x.json": b"{}"})
    assert bertjax("hf:folder", "hub:me/tiny") == (0, "")
    assert hub.files("me/tiny").keys() >= files.keys()
    assert bertjax("hub:me/tiny", "orbax:to") == (0, "")
    assert convert.read(str(tmp_path / "to")).config.embedding == how
    requested = {path.partition("/resolve/")[2].partition("/")[2] for _, path in hub.seen}
    assert "1_Pooling/config.json" in requested
    assert not {"onnx/model.json", "1_Pooling/deeper/x.json"} & requested
    folder_of(plain, tmp_path / "plain")  # pushed over it, and no sentence encoder
    assert bertjax("hf:plain", "hub:me/tiny") == (0, "")
    assert not {sentence_encoder.MODULES, "1_Pooling/config.json"} & hub.files("me/tiny").keys()


def test_push_and_pull_are_exact(hub, bertjax, tmp_path):
    source = model()
    orbax.write(source, tmp_path / "a")
    assert bertjax("orbax:a", "hub:me/tiny") == (0, "")
    pushed = hub.files("me/tiny")
    # The card apart, which tells the run's figures, it is the folder that hf: writes.
    assert convert.convert(str(tmp_path / "a"), f"hf:{tmp_path}/folder") == []
    written = {file.name: file.read_bytes() for file in (tmp_path / "folder").iterdir()}
    assert pushed == written | {".gitattributes": pushed[".gitattributes"]}
    ((branch, message, done),) = hub.commits["me/tiny"]
    assert (branch, message) == ("main", "Weights after 17 updates, exported by bertjax")
    assert [name for kind, name in done if kind == "lfsFile"] == ["model.safetensors"]

    assert bertjax("hub:me/tiny", "orbax:b") == (0, "")
    again = convert.read(str(tmp_path / "b"))
    equal(again.params, source.params)
    assert again.config.model == source.config.model
    # What the source's config leaves to the files is filled in.
    assert again.config.tokenizer == tokenizer.resolved(source.config.tokenizer, source.tokenizer)
    for name in os.listdir(tmp_path / "a/tokenizer"):
        assert (tmp_path / "b/tokenizer" / name).read_bytes() == (
            tmp_path / "a/tokenizer" / name
        ).read_bytes()
    assert again.tokenizer.encode(["her oats"]) == source.tokenizer.encode(["her oats"])


def pulled(path):
    return (path / "model.safetensors").read_bytes()


def test_a_revision_is_a_branch_or_a_commit(hub, bertjax, tmp_path):
    first, second = (folder_of(model(seed), tmp_path / str(seed)) for seed in (1, 2))
    hub.add("me/tiny", first)
    hub.add("me/tiny", first, branch="v2/next")
    assert bertjax("hf:2", "hub:me/tiny@v2/next")[0] == 0
    assert [branch for branch, *_ in hub.commits["me/tiny"]] == ["v2/next"]
    weights = "model.safetensors"
    assert hub.files("me/tiny")[weights] == first[weights]
    assert hub.files("me/tiny", "v2/next")[weights] == second[weights]
    commit = hub.branches["me/tiny"]["v2/next"]
    for place, expected in ("", first), ("@v2/next", second), (f"@{commit}", second):
        assert bertjax(f"hub:me/tiny{place}", f"hf:to{place}")[0] == 0
        assert pulled(tmp_path / f"to{place}") == expected[weights], place


def test_only_what_a_model_is_read_from_is_requested(hub, bertjax, tmp_path):
    """No pickle, no code, nothing in a folder; a listed name that climbs writes nowhere."""
    files = folder_of(model(), tmp_path / "folder")
    unwanted = ["pytorch_model.bin", "modeling_evil.py", "tf_model.h5", "rust_model.ot", "a.pkl"]
    unwanted += ["onnx/model.onnx", "1_Pooling/config.json", "fp16/model.safetensors"]
    hub.add("me/tiny", files | dict.fromkeys(unwanted, b"\x80\x04."))
    hub.listed = ["../../evil.json", "../../../../evil.json", "..\\..\\evil.json"]
    hub.listed += [f"{tmp_path}/evil.json", "C:\\evil.json"]
    before = set(tmp_path.iterdir())
    assert bertjax("hub:me/tiny", "hf:to") == (0, "")
    assert pulled(tmp_path / "to") == files["model.safetensors"]
    assert set(tmp_path.iterdir()) == before | {tmp_path / "to", tmp_path / "home"}
    assert not [path for path in tmp_path.rglob("*") if "evil.json" in path.name]
    commit = hub.branches["me/tiny"]["main"]
    resolved = {path for _, path in hub.seen if "/resolve/" in path}
    wanted = files.keys() - {"README.md"}
    assert resolved == {f"/me/tiny/resolve/{commit}/{name}" for name in wanted}


def test_what_another_model_left_behind_is_replaced(hub, bertjax, tmp_path):
    """An index of old shards and every other kind of tokenizer go; what is the owner's stays."""
    files = folder_of(model(), tmp_path / "folder")
    stale = {
        hf_files.INDEX,
        *(name for names in tokenizer_files.FORMATS for name in names),
    } - files.keys()
    kept = {"LICENSE.txt": b"mine", "pytorch_model.bin": b"old", "onnx/vocab.json": b"{}"}
    hub.add("me/tiny", dict.fromkeys(stale, b"{}") | kept)
    assert bertjax("hf:folder", "hub:me/tiny") == (0, "")
    assert hub.files("me/tiny") == files | kept | {"README.md": hub.files("me/tiny")["README.md"]}
    assert len(hub.commits["me/tiny"]) == 1
    assert bertjax("hub:me/tiny", "hf:to") == (0, "")
    assert pulled(tmp_path / "to") == files["model.safetensors"]


def test_a_cache_of_links_is_read(hub, bertjax, tmp_path):
    """Also where a large file is a link into the blobs that all repositories share."""
    files = folder_of(model(), tmp_path / "folder")
    hub.add("me/tiny", files)
    assert bertjax("hub:me/tiny", "hf:one") == (0, "")
    cache = tmp_path / "home/hub"
    (link,) = cache.glob("models--me--tiny/snapshots/*/model.safetensors")
    assert link.is_symlink()
    blob, shared = link.resolve(), cache / "blobs/ab" / ("ab" * 32)
    assert blob.parent == cache / "models--me--tiny/blobs"
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    hub.seen.clear()
    assert bertjax("hub:me/tiny", "hf:two") == (0, "")
    assert pulled(tmp_path / "two") == files["model.safetensors"]
    assert not [path for _, path in hub.seen if "resolve" in path]  # all of it was there


ABSENT = "raise ModuleNotFoundError('absent', name='huggingface_hub')\n"
UNUSED_PORT = "http://127.0.0.1:1"
# Source, destination, exit code, part of the line, changes to the environment.
FAILURES = [
    ("hub:me/none", "hf:to", 65, "Repository Not Found", {}),
    ("hub:none", "hf:to", 65, "Repository Not Found", {}),  # a name alone was legal once
    ("hub:me/tiny@none", "hf:to", 65, "Revision Not Found", {}),
    ("hub:me/tiny", "hf:to", 65, "401 Unauthorized", {"HF_TOKEN": "hf_another"}),
    ("hub:me/pickles", "hf:to", 65, "holds neither model.safetensors", {}),
    ("hub:me/tiny", "hf:to", 65, "check your internet connection", {"HF_ENDPOINT": UNUSED_PORT}),
    ("hub:me/tiny", "hf:to", 65, "HF_HUB_OFFLINE", {"HF_HUB_OFFLINE": "1"}),
    ("hub:me/tiny/x", "hf:to", 64, "'namespace/repo_name'", {}),
    ("hub:me/ti--ny", "hf:to", 64, "--", {}),
    ("hub:../tiny", "hf:to", 64, "..", {}),
    ("hub:me/tiny@", "hf:to", 64, "not a branch, tag or commit", {}),
    ("hub:me/tiny@../../x", "hf:to", 64, "not a branch, tag or commit", {}),
    (
        "hub:me/tiny",
        "hf:to",
        64,
        "pip install 'bertjax[hub]'",
        {"PYTHONPATH": f"absent:{os.environ['PYTHONPATH']}"},
    ),
    (
        "hf:folder",
        "hub:me/new",
        64,
        "'bertjax[hub]'",
        {"PYTHONPATH": f"absent:{os.environ['PYTHONPATH']}"},
    ),
    ("hf:folder", "hub:me/a/b", 64, "'namespace/repo_name'", {}),
    ("hf:folder", "hub:me/new", 74, "401 Unauthorized", {"HF_TOKEN": "hf_another"}),
    ("hf:folder", "hub:me/new", 74, "Connection refused", {"HF_ENDPOINT": UNUSED_PORT}),
    ("hf:folder", "hub:me/tiny@none", 74, "Revision Not Found", {}),
]


def refused(result, code, where, text):
    """One line on stderr, which names the place; nothing of a target."""
    assert result[0] == code, result
    (line,) = result[1].splitlines()
    assert line.startswith("bertjax convert: ")
    assert where in line
    assert text in line


@pytest.mark.parametrize(("source", "destination", "code", "text", "changes"), FAILURES)
def test_one_line_and_nothing_left(
    hub, bertjax, tmp_path, source, destination, code, text, changes
):
    (tmp_path / "absent/huggingface_hub").mkdir(parents=True)
    (tmp_path / "absent/huggingface_hub/__init__.py").write_text(ABSENT)
    files = folder_of(model(), tmp_path / "folder")
    hub.add("me/tiny", files)
    hub.add("me/pickles", {"config.json": files["config.json"], "pytorch_model.bin": b"\x80\x04."})
    before, branches = set(tmp_path.iterdir()), str(hub.branches)
    place = source if source.startswith("hub:") else destination
    where = "models--me--pickles" if "pickles" in source else place
    refused(bertjax(source, destination, **changes), code, where, text)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "home"}
    assert str(hub.branches) == branches
    assert not [path for _, path in hub.seen if path.endswith(".bin")]


# The request that fails, how, and what the line says of it.
BROKEN_PUSHES = [
    ("POST", "/api/repos/create", 403, "the Hub says no"),
    ("POST", "/commit/", 403, "the Hub says no"),
    ("POST", "/commit/", DROP, "Server disconnected"),
    ("PUT", "/lfs/", 403, "'model.safetensors'"),
]


@pytest.mark.parametrize(("method", "part", "fault", "text"), BROKEN_PUSHES)
def test_a_push_that_fails_leaves_the_branch(hub, bertjax, tmp_path, method, part, fault, text):
    files = folder_of(model(1), tmp_path / "old")
    folder_of(model(2), tmp_path / "new")
    hub.add("me/tiny", files)
    if part == "/api/repos/create":
        del hub.branches["me/tiny"]
    branches = str(hub.branches)
    hub.faults = lambda m, path: fault if m == method and part in path else None
    refused(bertjax("hf:new", "hub:me/tiny"), 74, "hub:me/tiny", text)
    assert str(hub.branches) == branches


def test_no_progress_bar_shares_the_line(hub, bertjax, tmp_path):
    """On a terminal, where the library leaves the bar of a failed upload open."""
    folder_of(model(), tmp_path / "folder")
    hub.faults = lambda method, _: 403 if method == "PUT" else None
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (30, 100))
    bars = {"HF_HUB_DISABLE_PROGRESS_BARS": "0"}
    assert bertjax("hf:folder", "hub:me/tiny", terminal, **bars)[0] == 74
    *before, line = os.read(reader, 1 << 16).decode().rstrip("\r\n").split("\n")
    assert "model.safetensors:" in before[-1]  # a bar there was
    assert line.startswith("bertjax convert: hub:me/tiny: ")


def test_a_name_alone_is_pushed_to_the_users_own(hub, bertjax, tmp_path):
    files = folder_of(model(), tmp_path / "folder")
    assert bertjax("hf:folder", "hub:tiny") == (0, "")
    assert hub.files("me/tiny")["model.safetensors"] == files["model.safetensors"]


@pytest.mark.slow
def test_a_download_that_breaks_off(hub, bertjax, tmp_path):
    """Half of the weights, then silence; the library asks again for some seconds."""
    hub.add("me/tiny", {})
    folder_of(model(), tmp_path / "folder")
    assert bertjax("hf:folder", "hub:me/tiny") == (0, "")
    answers = iter([HALF])
    hub.faults = lambda _, path: next(answers, DROP) if path.startswith("/lfs/") else None
    code, stderr = bertjax("hub:me/tiny", "hf:to")
    assert code == 65
    assert stderr.splitlines()[-1].startswith("bertjax convert: hub:me/tiny: ")
    assert stderr.count("bertjax convert: ") == 1
    assert not (tmp_path / "to").exists()
    hub.faults = lambda *_: None
    assert bertjax("hub:me/tiny", "hf:to") == (0, "")  # and it is not taken for whole

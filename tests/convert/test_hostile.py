"""Hostile sources: nothing runs, nothing is written, one line, exit 65, within 2 s and 500 MB.

Every case is a real process. Time is the processor's (a busy machine stretches the clock's).
"""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from limits import CPU_SECONDS, PEAK_BYTES
from random_models import random_model

from bertjax import errors
from bertjax.convert import hf, tensor_file, tf1

# A forked child's peak counts its parent's memory, so it reads its own.
CHILD = """
import resource, sys
from bertjax.__main__ import run
code = run(["bertjax", *sys.argv[2:]])
usage = resource.getrusage(resource.RUSAGE_SELF)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
with open(sys.argv[1], "w") as report:
    report.write(f"{usage.ru_utime + usage.ru_stime} {int(peak.split()[1]) * 1024}")
sys.exit(code)
"""


def run(*arguments, cwd):
    """`(exit code, stderr, processor seconds, peak bytes)` of a bertjax process."""
    report = cwd / "report"
    process = subprocess.run(
        [sys.executable, "-c", CHILD, report, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    seconds, peak = report.read_text().split()
    report.unlink()
    return process.returncode, process.stderr, float(seconds), int(peak)


class Bomb:
    """Unpickled by a plain loader, this leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def raw_header(path, header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def entry(shape, begin, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


WORDS = "bert.embeddings.word_embeddings.weight"


def overlapping(folder):
    raw_header(
        folder / "model.safetensors",
        {WORDS: entry([4], 0, 16), "bert.pooler.dense.bias": entry([4], 8, 24)},
        b"\0" * 24,
    )


def oversized(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def cut_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def huge_tensor(folder):
    raw_header(folder / "model.safetensors", {WORDS: entry([10**6, 10**6], 0, 4 * 10**12)})


def huge_sparse_tensor(folder):
    """The file really is that long, and the config agrees: one hole of 4 TB."""
    edit(folder, vocab_size=10**6, hidden_size=10**6)
    raw_header(folder / "model.safetensors", {WORDS: entry([10**6, 10**6], 0, 4 * 10**12)})
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size)
    length = (folder / "model.safetensors").stat().st_size + 4 * 10**12
    try:
        os.truncate(folder / "model.safetensors", length)
    except OSError:
        pytest.skip("this file system holds no file of 4 TB, not even an empty one")


def many_layers(folder):
    edit(folder, num_hidden_layers=10**12)


def deep_json(folder):
    (folder / "config.json").write_text("[" * 10**6)


def deep_header(folder):
    raw_header(folder / "model.safetensors", b'{"a":' * 10**5)


def wrong_types(folder):
    edit(folder, hidden_size="768", num_attention_heads=[1])


def zero_heads(folder):
    edit(folder, num_attention_heads=0)


def wrong_shape(folder):
    edit(folder, hidden_size=64)


def integers(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))


def index_up(folder):
    index(folder, "../elsewhere/model.safetensors")


def index_absolute(folder):
    index(folder, "/etc/passwd")


def index_nested(folder):
    index(folder, {"a": 1})


def index(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {WORDS: name, "bert.pooler.dense.bias": name}})
        if isinstance(name, str)
        else json.dumps({"weight_map": [name]})
    )


def link_out(folder):
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def link_loop(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")


def config_link(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")


def pipe(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def disguised_pickle(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(folder.parent / "ran")))


def pickle_file(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / "ran")))


def zipped_pickle(folder, extra=()):
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": Bomb(folder.parent / "ran")}, 2))
        archive.writestr("archive/version", "3\n")
        for name in extra:
            archive.writestr(name, b"slipped")


def zip_slip(folder):
    zipped_pickle(folder, ["../../slipped", "/tmp/slipped"])


def zip_bomb(folder):
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (200 << 20))


def edit(folder, **fields):
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | fields))


CASES = [
    overlapping,
    oversized,
    truncated,
    cut_header,
    huge_tensor,
    huge_sparse_tensor,
    many_layers,
    deep_json,
    deep_header,
    wrong_types,
    zero_heads,
    wrong_shape,
    integers,
    index_up,
    index_absolute,
    index_nested,
    link_out,
    link_loop,
    config_link,
    pipe,
    disguised_pickle,
    pickle_file,
    zipped_pickle,
    zip_slip,
    zip_bomb,
]


@pytest.mark.parametrize("spoil", CASES, ids=lambda case: case.__name__)
def test_hugging_face_folder(spoil, tmp_path):
    folder = tmp_path / "source"
    hf.write(random_model(), folder)
    (tmp_path / "elsewhere").mkdir()
    spoil(folder)
    check_refused(f"hf:{folder}", tmp_path, "--allow_pickle")


def check_refused(source, directory, *flags):
    before = sorted(directory.rglob("*"))
    code, said, seconds, peak = run(
        "convert", source, f"orbax:{directory / 'target'}", *flags, cwd=directory
    )
    assert code == errors.DATA, said
    assert said.count("\n") == 1, said
    assert said.startswith("bertjax convert: ")
    assert sorted(directory.rglob("*")) == before
    assert seconds < CPU_SECONDS
    assert peak < PEAK_BYTES


def cut_index(folder):
    path = folder / "m.index"
    path.write_bytes(path.read_bytes()[:-10])


def cut_data(folder):
    os.truncate(folder / "m.data-00000-of-00001", 1000)


def flipped_data(folder):
    path = folder / "m.data-00000-of-00001"
    damaged = bytearray(path.read_bytes())
    damaged[5000] ^= 1
    path.write_bytes(damaged)


def data_link(folder):
    path = folder / "m.data-00000-of-00001"
    path.rename(folder.parent / "outside")
    path.symlink_to(folder.parent / "outside")


def long_config(folder):
    (folder / "bert_config.json").write_text("[" + "[],[]," * 10**7 + "[]]")


@pytest.mark.parametrize(
    "spoil", [cut_index, cut_data, flipped_data, data_link, long_config], ids=lambda c: c.__name__
)
def test_tensorflow_files(spoil, tmp_path):
    tf1.write(random_model(), tmp_path / "source/m")
    spoil(tmp_path / "source")
    check_refused(f"tf1:{tmp_path}/source/m", tmp_path)


@pytest.mark.parametrize(
    "spoil", [pickle_file, zipped_pickle, zip_slip, zip_bomb], ids=lambda c: c.__name__
)
def test_fairseq_files(spoil, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/model.safetensors").touch()
    spoil(tmp_path / "source")
    (tmp_path / "source/pytorch_model.bin").rename(tmp_path / "source/model.pt")
    check_refused(f"fairseq:{tmp_path}/source/model.pt", tmp_path, "--allow_pickle")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_not_opened(kind, tmp_path):
    """A released archive is unpacked by its user: nothing here ever does."""
    path = tmp_path / f"model.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../slipped", b"")
    else:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("../slipped"), io.BytesIO())
    check_refused(f"hf:{path}", tmp_path)
    check_refused(f"orbax:{path}", tmp_path)


def test_pickles_need_the_flag(tmp_path):
    hf.write(random_model(), tmp_path / "source")
    (tmp_path / "source/model.safetensors").unlink()
    torch.save({"w": torch.ones(2)}, tmp_path / "source/pytorch_model.bin")
    before = sorted(tmp_path.rglob("*"))
    code, said, *_ = run("convert", f"hf:{tmp_path}/source", tmp_path / "target", cwd=tmp_path)
    assert code == errors.USAGE
    assert "--allow_pickle" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_folder_unspoilt_is_converted(tmp_path):
    """Or every case above could fail for another reason than its own."""
    hf.write(random_model(), tmp_path / "source")
    code, said, *_ = run("convert", f"hf:{tmp_path}/source", tmp_path / "target", cwd=tmp_path)
    assert code == errors.DONE, said
    assert (tmp_path / "target/checkpoints/0/integrity.json").is_file()


def test_a_link_into_the_hubs_cache_is_followed(tmp_path):
    """The cache's layout: snapshots/REVISION/model.safetensors -> ../../blobs/HASH."""
    snapshot, blobs = tmp_path / "models--a--b/snapshots/abc", tmp_path / "models--a--b/blobs"
    hf.write(random_model(), snapshot)
    blobs.mkdir()
    for path in snapshot.iterdir():
        path.rename(blobs / f"blob-{path.name}")
        path.symlink_to(f"../../blobs/blob-{path.name}")
    from bertjax import convert

    assert convert.read(f"hf:{snapshot}").config.model.hidden_size == 32


def test_damage_of_one_byte_of_a_header_never_ends_in_a_traceback(tmp_path):
    """Every single flipped byte of the header gives weights or a DataError."""
    hf.write(random_model(num_hidden_layers=1, head="none"), tmp_path / "m")
    path = tmp_path / "m/model.safetensors"
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for place in range(length):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            for tensor in tensor_file.read(path).values():
                tensor.read()
        except errors.DataError:
            refused += 1
    assert refused > length / 2

"""Files of torch.save: nothing in them runs, and only what holds weights is opened."""

import argparse
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from limits import CPU_SECONDS

from bertjax.convert import torch_file, torch_pickle
from bertjax.convert.pretrained import Hints
from bertjax.errors import DataError, UsageError

ALLOWED = Hints(allow_pickle=True)


class Evil:
    """Unpickled by a plain loader, this makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def saved(tmp_path):
    """`torch.save`'s zip file of one tensor."""
    torch.save({"w": torch.arange(4.0)}, tmp_path / "good.pt")
    return tmp_path / "good.pt"


def rezip(source, change, **options):
    """The zip file with `change(name, contents) -> [(name, contents)]` on every member."""
    target = source.with_name("bad.pt")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for info in old.infolist():
            for name, contents in change(info.filename, old.read(info)):
                new.writestr(name, contents)
    return target


def with_pickle(source, program):
    def change(name, contents):
        return [(name, program if name.endswith("/data.pkl") else contents)]

    return rezip(source, change)


def with_member(source, member):
    def change(name, contents):
        return [(name, contents)] + [(member, b"x")] * name.endswith("/version")

    return rezip(source, change)


def check_refused(path, message):
    with pytest.raises(DataError) as caught:
        torch_file.load_torch_file(path, ALLOWED)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_saved_is_read(tmp_path):
    values = torch.randn(6, 4)
    state = {
        "args": argparse.Namespace(name="x", rates=[1.5, None, True], big=2**40, pair=(1, 2)),
        "model": {
            "float": values,
            "half": values.half(),
            "bfloat16": values.bfloat16(),
            "double": values.double(),
            "view": values[1:3].T,
            "count": torch.arange(3),
            "parameter": torch.nn.Parameter(values),
            "empty": torch.zeros(0),
            "step": 3,
        },
    }
    torch.save(state, tmp_path / "model.pt")
    again = torch_file.load_torch_file(tmp_path / "model.pt", ALLOWED)
    assert again["args"] == state["args"]
    tensors = torch_file.tensors(again["model"])
    assert "step" not in tensors
    for name, tensor in tensors.items():
        expected = state["model"][name].detach().float().numpy()
        assert tensor.shape == expected.shape
        np.testing.assert_array_equal(np.float32(tensor.read()), expected)
    torch.save(torch.nn.TransformerEncoderLayer(8, 2).state_dict(), tmp_path / "model.pt")
    assert len(torch_file.tensors(torch_file.load_torch_file(tmp_path / "model.pt", ALLOWED))) == 12


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_program_is_not_run(saved, tmp_path, protocol):
    program = pickle.dumps({"model": Evil(tmp_path / "ran")}, protocol)
    check_refused(with_pickle(saved, program), "its pickle calls 'posix.mkdir'")
    bare = tmp_path / "bare.pt"
    bare.write_bytes(program)
    check_refused(bare, "not a file of torch.save")
    pickle.loads(program)  # it would have done it
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02c__builtin__\neval\n.", "'__builtin__.eval'"),
        (b"\x80\x02(S'x'\ni__builtin__\neval\n.", "the instruction STRING"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02ctorch._utils\n_rebuild_device_tensor_from_numpy\n.", "from_numpy'"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "'torch.storage._load_from_bytes'"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (b"", "damaged"),
        (pickle.dumps({}, 4), "the instruction MEMOIZE"),
        (pickle.dumps([1, 2], 2), "expected a dict of tensors, got list"),
        (b"\x80\x02N" + b"0" * torch_pickle.MAX_PICKLE_BYTES, "good/data.pkl' of 1,"),
        (b"\x80\x02h\x05.", "PyTorch cannot load it"),
    ],
)
def test_other_instructions_are_refused(saved, program, message):
    check_refused(with_pickle(saved, program), message)


@pytest.mark.parametrize(
    "member",
    [
        "../evil",
        "/evil",
        "good/../evil",
        "good/data/../../evil",
        "good/code/evil.py",
        "other/version",
        "good\\evil",
        "good/constants.pkl",
        "..",
        "good/data/x",
        "good/",
    ],
)
def test_members_have_their_names(saved, member):
    path = with_member(saved, member)
    if member == "other/version":
        check_refused(path, "expected one directory of members")
    else:
        check_refused(path, "has no place in a file of torch.save")


def test_bombs_are_refused(saved):
    def inflate(name, contents):
        return [(name, b"\0" * 10**7 if "/data/" in name else contents)]

    path = rezip(saved, inflate, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    check_refused(path, "is compressed")
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = with_member(saved, "good/version")
    check_refused(path, "each named once")


def test_members_that_share_bytes_are_refused(saved):
    """Each directory entry may point at the same bytes, so that a small file unpacks to a large."""
    contents = bytearray(with_member(saved, "good/data/7").read_bytes())
    large = len(contents) - 500
    for name in (b"good/data/0", b"good/data/7"):
        entry = contents.rfind(name) - 46
        assert contents[entry : entry + 4] == b"PK\x01\x02"
        contents[entry + 20 : entry + 28] = struct.pack("<II", large, large)
    saved.write_bytes(contents)
    check_refused(saved, "together longer than the file")


def test_a_directory_without_end_is_refused(saved):
    contents = bytearray(saved.read_bytes())
    end = contents.rfind(b"PK\x05\x06")
    contents[end + 12 : end + 16] = struct.pack("<I", torch_file.MAX_DIRECTORY_BYTES + 1)
    contents[end:end] = b"\0" * torch_file.MAX_DIRECTORY_BYTES
    contents = contents.replace(b"PK\x06\x07", b"PK\x00\x00")  # not by the 64-bit record either
    saved.write_bytes(contents)
    check_refused(saved, "a zip directory of")


def test_tensors_that_repeat_their_storage(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    check_refused(path, "a tensor repeats its elements")
    table = torch.ones(100, 8)
    torch.save({"embedding": table, "decoder": table}, path)
    tied = torch_file.tensors(torch_file.load_torch_file(path, ALLOWED))
    np.testing.assert_array_equal(tied["embedding"].read(), tied["decoder"].read())


def test_shapes_beyond_the_file(saved):
    with zipfile.ZipFile(saved) as archive:
        program = archive.read("good/data.pkl")
    for number in (b"K\x04\x85", b"K\x00K\x04"):  # elements of the tensor, and where they start
        assert number in program
    larger = program.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    check_refused(with_pickle(saved, larger), "a tensor ends beyond the file")
    later = program.replace(b"K\x00K\x04", b"J\xff\xff\xff\x7fK\x04")
    check_refused(with_pickle(saved, later), "a tensor ends beyond the file")


def test_numbers_of_the_other_byte_order(saved):
    def change(name, contents):
        return [(name, b"big" if name.endswith("/byteorder") else contents)]

    check_refused(rezip(saved, change), "numbers are big-endian")


def test_dicts_of_one_dict_twice(tmp_path):
    """50 of them in a chain have 2^50 paths."""
    state = {"w": torch.ones(2)}
    for _ in range(50):
        state = {"a": state, "b": state}
    torch.save(state, tmp_path / "model.pt")
    again = torch_file.load_torch_file(tmp_path / "model.pt", ALLOWED)
    for _ in range(50):
        again = again["b"]
    assert again["w"].shape == (2,)


def test_what_would_be_waited_for_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "model.pt")
    check_refused(tmp_path / "model.pt", "not a regular file")


def test_permission_is_asked_for_harmless_files_only(saved, tmp_path):
    with pytest.raises(UsageError, match="--allow_pickle"):
        torch_file.load_torch_file(saved, Hints())
    bad = with_pickle(saved, pickle.dumps(Evil(tmp_path / "ran"), 2))
    with pytest.raises(DataError):
        torch_file.load_torch_file(bad, Hints())


def test_pytorch_is_asked_for(saved, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(UsageError, match=r"PyTorch 2\.9\.1\+cpu: .* before 2\.10"):
        torch_file.load_torch_file(saved, ALLOWED)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"bertjax\[torch\]"):
        torch_file.load_torch_file(saved, ALLOWED)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "No such file"),
        (b"", "not a file of torch.save"),
        (b"PK\x03\x04" + bytes(100), "not a file of torch.save"),
        (b"\x1f\x8b" + bytes(100), "not a file of torch.save; unpack it first"),
        (b"./storages" + bytes(247) + b"ustar", "not a file of torch.save; unpack it first"),
    ],
)
def test_other_files(tmp_path, contents, message):
    path = tmp_path / "model.pt"
    if contents is not None:
        path.write_bytes(contents)
    check_refused(path, message)


def test_hostile_files_are_refused_before_pytorch_is_imported(saved, tmp_path):
    """The slowest program that is short enough to be looked at, in a process of its own."""
    length = torch_pickle.MAX_PICKLE_BYTES
    path = with_pickle(saved, b"\x80\x02" + b"}" * (length - 20) + b"cos\nsystem\n.")
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from bertjax.convert import fairseq\n"
        "from bertjax.convert.pretrained import Hints\n"
        "from bertjax.errors import DataError\n"
        "try: fairseq.read(Path(sys.argv[1]), Hints(allow_pickle=True))\n"
        "except DataError as error: print(error, 'torch' in sys.modules, time.process_time())\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    *_, imported, seconds = result.stdout.split()
    assert "calls 'os.system'" in result.stdout
    assert imported == "False"
    assert float(seconds) < CPU_SECONDS

"""Files of PyTorch before 1.6: what was saved is read, and nothing else passes."""

import argparse
import contextlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from limits import CPU_SECONDS, PEAK_BYTES
from test_torch_file import check_refused

from bertjax.convert import torch_file, torch_legacy, torch_pickle
from bertjax.convert.pretrained import Hints
from bertjax.errors import DataError, UsageError

ALLOWED = Hints(allow_pickle=True)
PARTS = ["magic", "version", "machine", "object", "keys"]


class Evil:
    """Unpickled by a plain loader, this makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def save(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def saved(tmp_path):
    return save({"w": torch.arange(4.0), "v": torch.arange(3)}, tmp_path / "old.pt")


def split(path):
    """The five pickles and the storages behind them."""
    file = io.BytesIO(path.read_bytes())
    parts = []
    for _ in PARTS:
        start = file.tell()
        list(pickletools.genops(file))
        parts.append(file.getvalue()[start : file.tell()])
    return parts, file.read()


def join(path, parts, storages):
    path.write_bytes(b"".join(parts) + storages)
    return path


def replaced(path, old, new, part="object"):
    parts, storages = split(path)
    number = PARTS.index(part)
    assert old in parts[number]
    parts[number] = parts[number].replace(old, new)
    return join(path, parts, storages)


def load(path):
    return torch_file.load_torch_file(path, ALLOWED)


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
            "bytes": torch.arange(3).byte(),
            "empty": torch.zeros(0),
            "none": torch.zeros(0, 3),
            "scalar": torch.tensor(2),
            "flags": torch.tensor([True, False]),
            "short": torch.arange(3).short(),
        },
    }
    again = load(save(state, tmp_path / "old.pt"))
    assert again["args"] == state["args"]
    assert list(again["model"]) == list(state["model"])
    for name, tensor in torch_file.tensors(again["model"]).items():
        expected = state["model"][name].detach().float().numpy()
        assert tensor.shape == expected.shape
        np.testing.assert_array_equal(np.float32(tensor.read()), expected)
    layers = torch.nn.TransformerEncoderLayer(8, 2).state_dict()
    again = torch_file.tensors(load(save(layers, tmp_path / "old.pt")))
    for name, value in layers.items():
        np.testing.assert_array_equal(again[name].read(), value.numpy())


def test_storages_that_tensors_share(tmp_path):
    """RoBERTa's embedding is its decoder."""
    table, other = torch.randn(100, 8), torch.randn(5)
    state = {"a": other, "embedding": table, "decoder": table.detach(), "same": table, "b": other}
    again = torch_file.tensors(load(save(state, tmp_path / "old.pt")))
    for name, value in state.items():
        np.testing.assert_array_equal(again[name].read(), value.numpy())


def test_the_weights_are_not_read_before_they_are_asked_for(tmp_path):
    path = save({"w": torch.ones(1000)}, tmp_path / "old.pt")
    tensor = load(path)["w"]
    path.write_bytes(path.read_bytes()[:-4000] + np.full(1000, 2, np.float32).tobytes())
    np.testing.assert_array_equal(tensor.read(), np.full(1000, 2))


@pytest.mark.parametrize("part", PARTS)
def test_a_program_is_not_run(saved, tmp_path, part):
    program = pickle.dumps(Evil(tmp_path / "ran"), 2)
    parts, storages = split(saved)
    parts[PARTS.index(part)] = program
    message = "not a file of torch.save" if part == "magic" else "its pickle calls 'posix.mkdir'"
    check_refused(join(saved, parts, storages), message)
    pickle.loads(program)  # it would have done it
    assert (tmp_path / "ran").is_dir()


def test_every_truncation_is_refused(saved):
    whole = saved.read_bytes()
    load(saved)
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"old\.pt: (?!PyTorch)"):
            load(saved)


STORAGE = (
    b"(X\x07\x00\x00\x00storageq\x00ctorch\nFloatStorage\nq\x01X\x01\x00\x00\x00kX\x01\x00\x00\x00c"
)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02}", "its pickle is damaged"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "'torch.storage._load_from_bytes'"),
        (b"\x80\x02" + STORAGE + b"K\x04NtQ.", "its storages differ from those"),
        (b"\x80\x02" + STORAGE + b"\x8a\x05\x00\x10\xa5\xd4\xe8NtQ.", "torch.save does not"),
        (b"\x80\x02" + STORAGE + b"J\xff\xff\xff\xffNtQ.", "torch.save does not"),  # -1 elements
        (b"\x80\x02" + STORAGE + b"K\x04K\x04tQ.", "torch.save does not"),  # a view
        (b"\x80\x02" + STORAGE + b"G@\x10" + b"\0" * 6 + b"NtQ.", "torch.save does not"),
        (b"\x80\x02" + STORAGE + b"K\x04(NtQ.", "torch.save does not"),
        (b"\x80\x02" + STORAGE + b"K\x04NtK\x00Q.", "torch.save does not"),
        (b"\x80\x02" + STORAGE + b"K\x04NtQ" + STORAGE + b"K\x05NtQ.", "has two storages 'k'"),
        (b"\x80\x02K\x07Q.", "torch.save does not"),
        (b"\x80\x02h\x05Q.", "torch.save does not"),
        (b"\x80\x02Q.", "torch.save does not"),
        (b"\x80\x02(X\x06\x00\x00\x00moduleNNNtQ.", "torch.save does not"),
        (b"\x80\x02" + b"}" * torch_pickle.MAX_PICKLE_BYTES, "its pickle is damaged"),
    ],
)
def test_other_programs_are_refused(saved, program, message):
    parts, storages = split(saved)
    parts[3] = program
    check_refused(join(saved, parts, storages), message)


def test_counts_are_those_of_the_pickle(saved):
    """Neither may ask for more than there is, nor the one contradict the other."""
    whole = saved.read_bytes()
    parts, storages = split(saved)
    (key, *_), (count,) = pickle.loads(parts[4]), struct.unpack_from("<q", storages)
    for wrong in (10**12, -1, count - 1, count + 1):
        join(saved, parts, struct.pack("<q", wrong) + storages[8:])
        check_refused(saved, f"storage {key!r} has {wrong:,} elements, but {count} in its pickle")
    saved.write_bytes(whole)
    replaced(saved, b"K\x04Nt", b"\x8a\x06\x00\x10\xa5\xd4\xe8\x00Nt")
    check_refused(saved, "its storages need 4,000,000,000,")


def test_keys_are_those_of_the_pickle(saved):
    """A storage that the file leaves out would be whatever the memory held before."""
    parts, storages = split(saved)
    keys = pickle.loads(parts[4])
    twice = [*keys, *("".join(list(key)) for key in keys)]
    for wrong in (keys[:1], twice, [*keys, "7"], []):
        parts[4] = pickle.dumps(wrong, 2)
        check_refused(join(saved, parts, storages), "its storages differ from those")


def test_shapes_beyond_the_file(saved):
    whole = saved.read_bytes()
    replaced(saved, b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    check_refused(saved, "a tensor ends beyond the file")
    saved.write_bytes(whole)
    replaced(saved, b"K\x04\x85", b"\x8a\x06\x00\x10\xa5\xd4\xe8\x00\x85")
    check_refused(saved, "PyTorch cannot load it")
    save({"w": torch.zeros(1).expand(10**12)}, saved)
    check_refused(saved, "a tensor repeats its elements")


def test_other_layouts(saved, recwarn):
    parts, storages = split(saved)
    parts[2] = parts[2].replace(b"\x80\x02", b"\x80\x03")
    assert load(join(saved, parts, storages))["w"].shape == (4,)
    assert not recwarn.list
    parts[1] = pickle.dumps(1002, 2)
    check_refused(join(saved, parts, storages), "PyTorch cannot load it (Invalid protocol version")
    save([1], saved)
    check_refused(saved, "expected a dict of tensors, got list")


def test_permission_is_asked_for(saved):
    with pytest.raises(UsageError, match="--allow_pickle"):
        torch_file.load_torch_file(saved, Hints())


def test_damage_of_one_byte_never_ends_in_a_traceback(saved):
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(torch_legacy.MAGIC), len(whole) - 40):
        damaged = bytearray(whole)
        damaged[place] = rng.integers(256)
        saved.write_bytes(damaged)
        with contextlib.suppress(DataError):
            for tensor in torch_file.tensors(load(saved)).values():
                tensor.read()


CHILD = """
import sys, time
from pathlib import Path
from bertjax.convert import fairseq
from bertjax.convert.pretrained import Hints
from bertjax.errors import DataError
try: fairseq.read(Path(sys.argv[1]), Hints(allow_pickle=True))
except DataError as error: print(error)
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print('torch' in sys.modules, time.process_time(), int(peak) / 1e3)
"""


@pytest.mark.parametrize("slow", [b"}", b"K\x00", b"(", b"((K\x00t0"])
def test_hostile_files_are_refused_before_pytorch_is_imported(saved, slow):
    """The slowest programs that are short enough to be looked at, each in its own process."""
    parts, storages = split(saved)
    length = torch_pickle.MAX_PICKLE_BYTES - 200
    parts[3] = b"\x80\x02" + slow * (length // len(slow)) + b"cos\nsystem\n."
    path = join(saved, parts, storages)
    command = [sys.executable, "-c", CHILD, str(path)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    *_, imported, seconds, megabytes = result.stdout.split()
    assert "calls 'os.system'" in result.stdout
    assert imported == "False"
    assert float(seconds) < CPU_SECONDS
    assert float(megabytes) < PEAK_BYTES / 1e6

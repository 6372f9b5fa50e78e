"""Instruction sets and cores, from the files that Linux keeps of them."""

import os

import pytest

from bertjax.device import machine

X86 = (
    "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: fpu avx avx2 avx512f avx512_vnni fma\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd aes asimddp i8mm\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, ["avx2", "avx512f", "avx512_vnni"]),
        (ARM, ["asimd", "asimddp", "i8mm"]),
        ("flags\t: avx512_vnnix\n", []),
        ("", []),
    ],
)
def test_instruction_sets(text, expected):
    assert machine.instruction_sets(text) == expected


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".", 1)).write_text(text)


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight")
def test_cores_are_within_the_quota_of_the_cgroup_and_those_around_it(tmp_path):
    groups, root = tmp_path / "groups", tmp_path / "cgroup"
    groups.write_text("0::/outer/inner\n")
    group(root / "outer", cpu__max="350000 100000\n")
    group(root / "outer/inner", cpu__max="max 100000\n")
    assert machine.cores(root, groups) == 3
    group(root / "outer/inner", cpu__max="50000 100000\n")
    assert machine.cores(root, groups) == 1


@pytest.mark.usefixtures("eight")
def test_cores_of_version_1(tmp_path):
    groups, root = tmp_path / "groups", tmp_path / "cgroup"
    groups.write_text("4:memory:/x\n3:cpu,cpuacct:/docker/1\n")
    quota = {"cpu__cfs_quota_us": "400000\n", "cpu__cfs_period_us": "100000\n"}
    group(root / "cpu", **quota)  # as a container sees its own group
    assert machine.cores(root, groups) == 4
    group(root / "cpu", **quota | {"cpu__cfs_quota_us": "-1\n"})
    assert machine.cores(root, groups) == 8


@pytest.mark.usefixtures("eight")
def test_cores_without_cgroups(tmp_path):
    assert machine.cores(tmp_path / "none", tmp_path / "none") == 8


def test_a_description_has_what_stands_beside_numbers():
    found = machine.describe()
    assert found["cores"] >= 1
    assert len(found["load_average"]) == 3
    assert set(found["versions"]) == {"onnxruntime", "jax"}

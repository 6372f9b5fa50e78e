"""Programs kept from start to start: taken again, never damaged, within bounds."""

import os

import jax
import pytest
from jax._src import compilation_cache as jax_cache

from bertjax import storage, workdir
from bertjax.config import Config
from bertjax.processes import compilation_cache
from bertjax.processes.compilation_cache import Programs

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed


@pytest.fixture(autouse=True)
def no_other_cache(monkeypatch):
    """Of this process, JAX's own directory is unset: see conftest.py."""
    monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
    monkeypatch.setitem(
        compilation_cache._OPTIONS, "jax_persistent_cache_min_compile_time_secs", 0.0
    )
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax_cache.reset_cache()


def start(directory, monkeypatch):
    """Runs one program as a new process would; the keys it asked for and those it wrote."""
    asked, written = [], []
    with monkeypatch.context() as patch:
        for name, keys in (("get", asked), ("put", written)):
            method = getattr(Programs, name)

            def spied(self, key, *value, method=method, keys=keys):
                found = method(self, key, *value)
                keys.extend([key] * (found is not None or bool(value)))
                return found

            patch.setattr(Programs, name, spied)
        jax.clear_caches()
        with compilation_cache.kept(directory):
            assert jax.jit(lambda x: x * 3 + 1)(2.0) == 7
    assert jax.config.jax_compilation_cache_dir is None
    return asked, written


def files(directory):
    return [path for path in directory.iterdir() if "lambda" in path.name]


def test_a_second_start_takes_what_the_first_compiled(tmp_path, monkeypatch):
    place = tmp_path / "W" / "compilation_cache"
    taken, written = start(place, monkeypatch)
    assert written
    assert not taken
    taken, again = start(place, monkeypatch)
    assert sorted(taken) == sorted(written)
    assert not again


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_program_is_said_and_compiled_again(tmp_path, monkeypatch, capfd, damage):
    start(tmp_path, monkeypatch)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    path.write_bytes({"flipped": flipped, "cut": whole[:100], "empty": b""}[damage])
    _, written = start(tmp_path, monkeypatch)
    assert len(written) == 1
    assert capfd.readouterr().err == f"{path}: damaged; compiled again\n"
    _, written = start(tmp_path, monkeypatch)
    assert not written


def test_another_instruction_set_takes_no_program_of_this_one(tmp_path, monkeypatch):
    start(tmp_path, monkeypatch)
    monkeypatch.setattr(compilation_cache, "_instruction_set", lambda: "other")
    taken, written = start(tmp_path, monkeypatch)
    assert written
    assert not taken


def test_where_no_program_can_be_written_one_line_says_so(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "compilation_cache"
    start(place, monkeypatch)
    lines = capfd.readouterr().err.splitlines()
    assert lines == [f"{place}: cannot be written: Not a directory; programs are compiled again"]


def test_a_full_directory_drops_what_this_start_does_not_use(tmp_path):
    def names():
        return {path.name.partition("-")[0] for path in tmp_path.iterdir()}

    first = Programs(tmp_path, most_bytes=100)
    for key in ("a", "b"):
        first.put(key, b"8 bytes.")  # 40 with its hash
    assert first.put("c", b"8 bytes.") is None
    assert names() == {"a", "b"}  # both used by the process that would drop them
    second = Programs(tmp_path, most_bytes=100)
    assert second.get("b") == b"8 bytes."
    second.put("c", b"8 bytes.")
    assert names() == {"b", "c"}


def test_a_program_that_another_run_dropped_is_a_miss(tmp_path, capfd):
    Programs(tmp_path).put("a", b"8 bytes.")
    other = Programs(tmp_path)
    [path] = tmp_path.iterdir()
    path.unlink()
    assert other.get("a") is None
    assert capfd.readouterr().err == ""


def test_jax_decides_where_it_was_given_a_directory(tmp_path, monkeypatch):
    for directory in (str(tmp_path / "elsewhere"), ""):
        monkeypatch.setenv(compilation_cache.VARIABLE, directory)
        assert start(tmp_path / "W", monkeypatch) == ([], [])
    assert not os.path.exists(tmp_path / "W")


def test_the_directory_is_that_of_w_or_of_the_config(tmp_path):
    assert workdir.programs(Config(), tmp_path) == tmp_path / "compilation_cache"
    assert workdir.programs(Config(compilation_cache="off"), tmp_path) is None
    assert workdir.programs(Config(compilation_cache="/x"), tmp_path) == storage.path("/x")
    with compilation_cache.kept(None):
        assert jax_cache._cache is None

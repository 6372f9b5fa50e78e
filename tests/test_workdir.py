"""What bertjax.workdir refuses; what it opens is tested by whole runs in test_loop."""

import jax
import pytest

from bertjax import workdir
from bertjax.config import Config
from bertjax.errors import DataError


def test_a_workdir_that_not_all_hosts_see_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    with pytest.raises(DataError, match=r"not seen by process 3.*a --workdir that all see"):
        workdir.open_corpus(Config(), tmp_path, build=True)

"""Every test runs on the CPU with 8 fake devices, decided before JAX starts.

The processes that tests start find the package as this one does, installed or not, and get the
signals that tests send them, whatever this one was started by.

Programs are compiled cheaply: without LLVM's optimizations and with XLA's older emitter of loops,
a training step takes a fifth of the time to compile, and tests run few steps. What is computed is
the same up to rounding. So do the processes that tests start (xla_flags.CHEAP). With
BERTJAX_TEST_OPTIMIZED=1 all compile as users do; test_launch_whole.py always does.
"""

import os
import signal
import tempfile
from pathlib import Path

import pytest
from xla_flags import CHEAP

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {CHEAP}"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# In the background of a script, or under nohup, these are ignored, and so they are by every child.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config):
    """What one worker has compiled, the others read.

    Not the processes that tests start: JAX writes an entry in place, and a process that is killed
    would leave half of one.
    """
    if "BERTJAX_TEST_PROGRAMS" not in os.environ:  # workers have it from the process above them
        folder = tempfile.TemporaryDirectory(prefix="bertjax-programs-")
        os.environ["BERTJAX_TEST_PROGRAMS"] = folder.name
        config.add_cleanup(folder.cleanup)
    if not getattr(config.option, "numprocesses", None):  # else it only hands out tests
        import jax

        jax.config.update("jax_compilation_cache_dir", os.environ["BERTJAX_TEST_PROGRAMS"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture
def shown():
    """What library code logs is printed, as a command prints it."""
    from bertjax.processes import terminal

    with terminal.shown():
        yield

"""Every test runs on the CPU with 8 fake devices, decided before JAX starts.

The processes that tests start find the package as this one does, installed or not, and get the
signals that tests send them, whatever this one was started by.
"""

import os
import signal
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# In the background of a script, or under nohup, these are ignored, and so they are by every child.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

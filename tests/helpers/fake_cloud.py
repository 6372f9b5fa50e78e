"""A checkout, a fake cloud, and an environment in which the launch scripts use both."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

PROJECT = Path(__file__).parents[2]

# The hosts' Python: `venv` and `pip` only create the files that the scripts need, without delay.
HOST_PYTHON = """#!/bin/sh
echo "$@" >> "$HOME/python.log"
case "$1 $2" in
  "-c "*) exec {python} "$@" ;;
  "-m venv")
    for last; do :; done
    rm -rf "$last" && mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
  "-m pip")
    printf '#!/bin/sh\\nexec {python} -m bertjax "$@"\\n' > "$(dirname "$0")/bertjax"
    chmod +x "$(dirname "$0")/bertjax" ;;
  *) exit 99 ;;
esac
"""


def wait_until(condition, seconds=60.0):
    """Returns once `condition()` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@dataclasses.dataclass
class Cloud:
    """`root` holds the fake's state, `checkout` a git repository with the launch scripts."""

    root: Path
    checkout: Path
    environment: dict

    def script(self, name, *args, **variables):
        return subprocess.run(
            [str(self.checkout / "launch" / name), *args],
            env=self.environment | variables,
            text=True,
            capture_output=True,
            timeout=600,
        )

    def start(self, name, *args, **variables):
        """Starts a script in a process group of its own, as an interactive shell does."""
        return subprocess.Popen(
            [str(self.checkout / "launch" / name), *args],
            env=self.environment | variables,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def plays(self, *script):
        (self.root / "script.json").write_text(json.dumps(script))

    def hangs(self, text, seconds=1000):
        """Makes calls with `text` in their arguments wait."""
        (self.root / "hangs.json").write_text(json.dumps([text, seconds]))

    def calls(self, *verbs):
        """All calls so far, or the calls of some verbs."""
        log = self.root / "calls.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if not verbs or call[3] in verbs]

    def end_processes(self):
        """Kills processes that a failed test left running, here and on the hosts."""
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("FAKE_GCLOUD") == str(self.root):
                process.kill()

    def exists(self):
        """Names of the resources that still cost money."""
        return sorted(p.name for kind in ("queued", "nodes") for p in (self.root / kind).glob("*"))


def git(folder, *args):
    author = {
        f"GIT_{who}_{what}": "test@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    return subprocess.run(
        ["git", *args],
        cwd=folder,
        env=os.environ | author,
        check=True,
        text=True,
        capture_output=True,
    ).stdout.strip()


def make_checkout(folder, **files):
    shutil.copytree(PROJECT / "launch", folder / "launch", ignore=shutil.ignore_patterns("*.py*"))
    (folder / ".gitignore").write_text(".venv/\n")
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=all")
    return folder


def make_cloud(folder, checkout):
    programs = folder / "bin"
    programs.mkdir()
    for name, text in {
        "gcloud": f'#!/bin/sh\nexec {sys.executable} -ISB {PROJECT}/tests/helpers/fake_gcloud.py "$@"\n',
        "host-python": HOST_PYTHON.format(python=sys.executable),
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    root = folder / "cloud"
    root.mkdir()
    path = f"{programs}:{os.environ['PATH']}"
    hosts = {
        "PATH": path,
        "PYTHON": str(programs / "host-python"),
        "PYTHONPATH": str(PROJECT),
        "JAX_PLATFORMS": "cpu",
        "SUPERVISE_UNIT": "0.01",
        "FAKE_GCLOUD": str(root),
    }
    (root / "environment.json").write_text(json.dumps(hosts))
    environment = {
        "PATH": path,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "CLOUDSDK_CONFIG": str(folder / "no-credentials"),
        "FAKE_GCLOUD": str(root),
        "POLL": "0.05",
        "NAME": "pod",
        "ZONE": "zone-a",
        "PROJECT": "project",
        "ACCELERATOR_TYPE": "v4-16",
        "VERSION": "tpu-ubuntu2204-base",
    }
    found = subprocess.run(
        ["bash", "-c", "command -v gcloud"], env=environment, text=True, capture_output=True
    ).stdout.strip()
    assert found == shutil.which("gcloud", path=path) == str(programs / "gcloud")
    return Cloud(root, checkout, environment)

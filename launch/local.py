"""Runs several processes of one run on this machine, and restarts them if their exit codes allow.

    python launch/local.py --num_processes=2 --restarts=5 -- pretrain --config=... --workdir=W

The words after `--` are a bertjax command. Every line of output starts with the number of its
process. A process that ends with exit code 42 or by a signal ends the attempt: the others get some
seconds to end, then all start again, up to --restarts times. Any other exit code except 0 is final.
SIGTERM, Ctrl-C and a closed terminal reach all processes: they save and end, without a restart.

DRY_RUN=1 prints the commands and runs none.

Exit code: 0 when all are done; 42 when stopped, or out of restarts; else the first final code.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

from bertjax import errors

BERTJAX = (sys.executable, "-m", "bertjax")
_GRACE_SECONDS = 10.0  # after one process has failed, for the others to end by themselves


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own flags, and the bertjax command after `--`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=0, help="most further attempts")
    parser.add_argument("--cpu_devices", type=int, help="run on the CPU, as this many devices each")
    parser.add_argument("--gpus_per_process", type=int, help="GPUs for each, in order")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND", help="for example: pretrain")
    arguments = parser.parse_args()
    if arguments.num_processes < 1 or arguments.restarts < 0:
        parser.error("--num_processes must be positive, --restarts 0 or more")
    return arguments, arguments.command


def free_port() -> int:
    """A free port for the coordinator of one attempt."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def variables(arguments: argparse.Namespace, port: int, index: int) -> dict[str, str]:
    """The variables of process `index` of an attempt, added to the environment of the launcher."""
    told = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(arguments.num_processes),
        "JAX_PROCESS_ID": str(index),
        "PYTHONUNBUFFERED": "1",
    }
    if arguments.cpu_devices:
        flags = f"--xla_force_host_platform_device_count={arguments.cpu_devices}"
        told |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if arguments.gpus_per_process:
        first = index * arguments.gpus_per_process
        mine = range(first, first + arguments.gpus_per_process)
        told["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, mine))
    return told


def show(arguments: argparse.Namespace, command: list[str]):
    """Prints what an attempt would run."""
    port = free_port()
    for index in range(arguments.num_processes):
        told = [f"{k}={v}" for k, v in variables(arguments, port, index).items()]
        print(shlex.join([*told, *BERTJAX, *command]))


class Attempt:
    """The processes of one attempt, started together."""

    def __init__(self, arguments: argparse.Namespace, command: list[str]):
        port = free_port()
        self._processes = [
            subprocess.Popen(
                [*BERTJAX, *command],
                env=os.environ | variables(arguments, port, index),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that only the launcher receives Ctrl-C
            )
            for index in range(arguments.num_processes)
        ]
        self._readers = [
            threading.Thread(target=self._show, args=(index, process.stdout))
            for index, process in enumerate(self._processes)
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _show(index, lines):
        for line in lines:
            try:
                sys.stdout.write(f"[{index}] {line.decode(errors='replace')}")
                sys.stdout.flush()
            except OSError:  # a closed terminal; processes that still save need a reader
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def signal(self, number: int):
        """Sends a signal to every process that still runs."""
        for process in self._processes:
            process.send_signal(number)

    def wait(self, signals: list[int]) -> list[int]:
        """Waits for all processes, passes on `signals`, and returns the exit codes.

        A handler may add to `signals` before and during the wait. After one process has failed, the
        others are killed at the end of a grace period.
        """
        deadline, passed = None, 0
        while None in [process.poll() for process in self._processes]:  # a list, to poll them all
            for number in signals[passed:]:
                self.signal(number)
                passed += 1
            failed = any(process.returncode for process in self._processes)
            if failed and deadline is None:
                deadline = time.monotonic() + _GRACE_SECONDS
            if deadline and time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(0.05)
        for reader in self._readers:
            reader.join()
        return [process.returncode for process in self._processes]


def verdict(codes: list[int]) -> int | None:
    """The final exit code of the run after an attempt with `codes`; None: start another attempt."""
    final = [code for code in codes if code > 0 and code != errors.RESTART]
    return next(iter(final), None) if any(codes) else errors.DONE


def main() -> int:
    """Starts attempts until one is final; returns the exit code."""
    arguments, command = parse()
    if os.environ.get("DRY_RUN") == "1":
        show(arguments, command)
        return errors.DONE
    signals = []  # all signals for the processes, since the start of the launcher
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, lambda *_: signals.append(signal.SIGTERM))
    for left in range(arguments.restarts, -1, -1):
        codes = Attempt(arguments, command).wait(signals)
        final = verdict(codes)
        if final is not None:
            return final
        if not signals:
            print(f"local: processes ended with {codes}, {left} restarts left", flush=True)
            time.sleep(1.0 if left else 0.0)  # until the last attempt's ports and files are free
        if signals:
            break
    return errors.RESTART


if __name__ == "__main__":
    sys.exit(main())

"""A fake `gcloud` for the launch scripts: TPUs are folders, and hosts are HOME directories.

Everything is under $FAKE_GCLOUD:
  script.json        for each creation in turn, the states that `queued-resources describe` gives:
                     one state a call, and the last one for all later calls. A string instead of
                     the list is the error of the creation. First entries may change the creation:
                       SLOW   the creation is accepted, and the answer takes a minute
                       LATE   the same, but it is accepted only after the next `describe`
                       LOST   it is accepted, and the answer is lost; gcloud asks again, and finds
                              the resource there already
                       TAKEN  the same, but the resource there is somebody else's
                     "ACTIVE until FILE" stays until FILE exists; "UNREACHABLE" is a failed call;
                     SUSPENDING takes the hosts away: SIGTERM, and SIGKILL 60 s later
  environment.json   environment of the hosts' processes, beside the variables of each host
  delete_fails       one byte for each deletion that must fail
  hangs.json         [text, seconds]: calls with this text in their arguments wait for so long and
                     write the file `hanging`
  repeats            ssh commands with this text are sent twice
  queued/ nodes/     the resources that exist now
  on-its-way         exists once a LATE creation has reached the cloud
  calls.jsonl        the arguments of every call
  hosts/NODE/0/      HOME of worker 0 while its node lives; moved to gone/ afterwards

`ssh --command` really runs the command, once for each worker, on all workers at the same time. As
with the real gcloud, stderr of a host's shell goes to the same file as the command's output.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["FAKE_GCLOUD"])


def fail(message):
    print(f"ERROR: (gcloud) {message}", file=sys.stderr)
    sys.exit(1)


def parse(argv):
    """Parses only the arguments of the real command line that the scripts use."""
    service, *rest = argv
    parser = argparse.ArgumentParser(prog="gcloud", allow_abbrev=False)
    if service == "storage":
        parser.add_argument("verb", choices=["ls"])
        parser.add_argument("url")
        return parser.parse_args(rest), "storage"
    if rest[:1] != ["tpus"]:
        fail(f"Invalid choice: {argv}")
    kind, verb, *rest = rest[1:]
    add = parser.add_argument
    if (kind, verb) == ("tpu-vm", "scp"):
        add("names", nargs="+")
    else:
        add("name")
    for flag in ("--zone", "--project"):
        add(flag, required=True)
    add("--quiet", action="store_true", required=True)  # nobody is there to answer a question
    if verb == "create":
        size = parser.add_mutually_exclusive_group(required=True)
        size.add_argument("--accelerator-type")
        size.add_argument("--type")
        add("--topology")
        add("--spot", action="store_true")
        add("--reserved", action="store_true")
        add("--service-account")
        add("--description")
        if kind == "tpu-vm":
            add("--version", required=True)
        else:
            add("--runtime-version", required=True)
            add("--node-id", required=True)
            add("--valid-until-duration")
    if verb == "describe":
        add("--format", required=True)
    if (kind, verb) == ("queued-resources", "delete"):
        add("--force", action="store_true")
    if verb in ("ssh", "scp"):
        add("--worker", default="0")
        add("--internal-ip", action="store_true")
    if verb == "ssh":
        add("--command", required=True)
        add("--output-directory")
    return parser.parse_args(rest), f"{kind} {verb}"


def path(kind, name):
    return ROOT / kind / f"{name}.json"


def read(kind, name):
    if not path(kind, name).exists():
        resource = f"projects/p/locations/z/{kind}/{name}"
        fail(f"NOT_FOUND: Resource '{resource}' was not found")
    return json.loads(path(kind, name).read_text())


def write(kind, name, value):
    path(kind, name).parent.mkdir(exist_ok=True)
    path(kind, name).write_text(json.dumps(value))


def environment_of(name, home):
    number = int(home.name)
    node = read("nodes", name)
    return json.loads((ROOT / "environment.json").read_text()) | {
        "HOME": str(home),
        "HOSTNAME": f"t1v-{name}-w-{number}",
        "FAKE_HOST": str(home),  # marks the host's processes, so that they are found again
        "JAX_COORDINATOR_ADDRESS": f"localhost:{node['port']}",
        "JAX_NUM_PROCESSES": str(node["workers"]),
        "JAX_PROCESS_ID": str(number),
    }


def make_node(name):
    if path("nodes", name).exists():
        fail(f"ALREADY_EXISTS: Resource '{name}' already exists")
    workers = int(os.environ.get("FAKE_WORKERS", "2"))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    for number in range(workers):
        (ROOT / "hosts" / name / str(number)).mkdir(parents=True)
    write("nodes", name, {"workers": workers, "port": port, "state": "READY"})


def processes(name):
    """Ids of all processes on the hosts of a node, whoever started them."""
    mark = f"FAKE_HOST={ROOT / 'hosts' / name}/".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                yield int(entry.name)
        except OSError:
            continue


def end_processes(name):
    deadline = time.monotonic() + 60
    asked = list(processes(name))
    for pid in asked:
        os.kill(pid, signal.SIGTERM)
    while list(processes(name)):
        if time.monotonic() > deadline:
            for pid in processes(name):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def delete_node(name):
    end_processes(name)
    path("nodes", name).unlink()
    gone = ROOT / "gone"
    gone.mkdir(exist_ok=True)
    (ROOT / "hosts" / name).rename(gone / f"{name}-{len(list(gone.iterdir()))}")


def described():
    return (ROOT / "calls.jsonl").read_text().count('"describe"')


def queued_create(args):
    if path("queued", args.name).exists():
        fail(f"ALREADY_EXISTS: Resource '{args.name}' already exists")
    script = json.loads((ROOT / "script.json").read_text())
    turn = script.pop(0) if len(script) > 1 else script[0]
    (ROOT / "script.json").write_text(json.dumps(script))
    if isinstance(turn, str):
        fail(turn)
    how = []
    while turn[0] in ("SLOW", "LATE", "LOST", "TAKEN"):
        how.append(turn.pop(0))
    mark = "theirs" if "TAKEN" in how else args.description
    if "LATE" in how:
        if os.fork():
            time.sleep(60)
        os.setsid()  # the part of the server, which goes on if the client ends
        asked = described()
        (ROOT / "on-its-way").touch()
        while described() == asked:
            time.sleep(0.02)
    write("queued", args.name, {"node": args.node_id, "states": turn, "mark": mark})
    if "SLOW" in how:
        time.sleep(60)
    if "LOST" in how or "TAKEN" in how:
        fail(f"ALREADY_EXISTS: Resource '{args.name}' already exists")


def queued_describe(args):
    resource = read("queued", args.name)
    states, node = resource["states"], resource["node"]
    now, _, until = states[0].partition(" until ")
    if len(states) > 1 and not (until and not Path(until).exists()):
        resource["states"] = states[1:]
        write("queued", args.name, resource)
    if now == "UNREACHABLE":
        fail("UNAVAILABLE: The service is currently unavailable.")
    if now == "ACTIVE" and not path("nodes", node).exists():
        make_node(node)
    if now in ("SUSPENDING", "SUSPENDED") and path("nodes", node).exists():
        end_processes(node)
        write("nodes", node, read("nodes", node) | {"state": "PREEMPTED"})
    assert args.format == "value(state.state,tpu.nodeSpec[0].node.description)"
    print(now, resource.get("mark", ""), sep="\t")


def queued_delete(args):
    resource = read("queued", args.name)
    failures = ROOT / "delete_fails"
    if failures.exists() and failures.stat().st_size:
        failures.write_bytes(failures.read_bytes()[1:])
        fail("INTERNAL: deletion failed")
    if path("nodes", resource["node"]).exists():
        if not args.force:
            fail("FAILED_PRECONDITION: the queued resource has nodes")
        delete_node(resource["node"])
    path("queued", args.name).unlink()


def selected(name, worker):
    homes = sorted((ROOT / "hosts" / name).iterdir(), key=lambda home: int(home.name))
    return homes if worker == "all" else [homes[int(worker)]]


def ready(name):
    state = read("nodes", name)["state"]
    if state != "READY":
        fail(f"the TPU is in state {state}")


def ssh(args):
    ready(args.name)
    repeats = ROOT / "repeats"
    if repeats.exists() and repeats.read_text() in args.command:
        on_hosts(args)
    codes = on_hosts(args)
    sys.exit(next((code for code in codes if code), 0))


def on_hosts(args):
    running = []
    for home in selected(args.name, args.worker):
        out = None
        if args.output_directory:  # must exist; since version 443 gcloud writes nothing to it
            assert Path(args.output_directory).is_dir()
            out = Path(f"None/{home.name}.log").open("w")  # noqa: SIM115  # the command's
            print(
                "bash: warning: setlocale: LC_ALL: cannot change locale (C)", file=out, flush=True
            )
        running.append(
            subprocess.Popen(
                ["bash", "-c", args.command],
                cwd=home,
                env=environment_of(args.name, home),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=None if out is None else subprocess.STDOUT,
            )
        )
    return [process.wait() for process in running]


def scp(args):
    *sources, destination = args.names
    name, _, folder = destination.partition(":")
    ready(name)
    for home in selected(name, args.worker):
        for source in sources:
            shutil.copy(source, home / folder)


def node_describe(args):
    assert args.format == "value(state)"
    print(read("nodes", args.name)["state"])


def storage(args):
    folder = ROOT / "buckets" / args.url.removeprefix("gs://")
    if not folder.is_dir():
        fail("One or more URLs matched no objects.")
    for entry in sorted(folder.iterdir()):
        print(f"{args.url.rstrip('/')}/{entry.name}{'/' if entry.is_dir() else ''}")


COMMANDS = {
    "queued-resources create": queued_create,
    "queued-resources describe": queued_describe,
    "queued-resources delete": queued_delete,
    "tpu-vm create": lambda args: make_node(args.name),
    "tpu-vm describe": node_describe,
    "tpu-vm delete": lambda args: (read("nodes", args.name), delete_node(args.name)),
    "tpu-vm ssh": ssh,
    "tpu-vm scp": scp,
    "storage": storage,
}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: fail("interrupted"))  # even if the parent ignores it
    with (ROOT / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    arguments, command = parse(sys.argv[1:])
    hangs = ROOT / "hangs.json"
    text, seconds = json.loads(hangs.read_text()) if hangs.exists() else ("", 0)
    if seconds and text in " ".join(sys.argv):
        (ROOT / "hanging").touch()
        time.sleep(seconds)
    COMMANDS[command](arguments)

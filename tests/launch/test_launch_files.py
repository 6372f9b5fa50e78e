"""The files of launch/ that other programs read: shell, Kubernetes, SkyPilot, Slurm, pip."""

import copy
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2]
LAUNCH = PROJECT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])


class StrictLoader(yaml.SafeLoader):
    """YAML, but a key that is there twice is an error instead of the last one's."""


def strict_mapping(loader, node, deep=False):
    keys = [loader.construct_object(key, deep) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, strict_mapping)


def load(text):
    (document,) = yaml.load_all(text, StrictLoader)
    return document


def fields(*required, **properties):
    """A JSON schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


STRING, INTEGER = {"type": "string"}, {"type": "integer", "minimum": 0}
STRINGS = {"type": "array", "items": STRING}
ANYTHING = {}  # checked on its own

# jobset.x-k8s.io/v1alpha2 as of v0.13 (api/jobset/v1alpha2/jobset_types.go), what a user writes.
JOBSET = fields(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=fields("name", name=STRING, annotations={"additionalProperties": STRING}),
    spec=fields(
        "replicatedJobs",
        ttlSecondsAfterFinished=INTEGER,
        suspend={"type": "boolean"},
        failurePolicy=fields(
            maxRestarts=INTEGER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
            rules={
                "type": "array",
                "items": fields(
                    "name",
                    "action",
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={
                        "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
                    },
                    onJobFailureReasons={
                        "type": "array",
                        "items": {
                            "enum": [
                                "BackoffLimitExceeded",
                                "DeadlineExceeded",
                                "FailedIndexes",
                                "MaxFailedIndexesExceeded",
                                "PodFailurePolicy",
                            ]
                        },
                    },
                    onJobFailureMessagePatterns=STRINGS,
                    targetReplicatedJobs=STRINGS,
                ),
            },
        ),
        replicatedJobs={
            "type": "array",
            "minItems": 1,
            "items": fields(
                "name",
                "template",
                name=STRING,
                replicas=INTEGER,
                template=fields("spec", spec=ANYTHING, metadata=ANYTHING),
            ),
        },
        network=fields(
            enableDNSHostnames={"type": "boolean"},
            subdomain=STRING,
            publishNotReadyAddresses={"type": "boolean"},
        ),
    ),
)

# docs.skypilot.co, reference/yaml-spec; job_recovery: examples/managed-jobs.
SKYPILOT = fields(
    "resources",
    "run",
    name=STRING,
    workdir=STRING,
    num_nodes=INTEGER,
    setup=STRING,
    run=STRING,
    envs={"additionalProperties": {"type": ["string", "null"]}},
    file_mounts={"type": "object"},
    resources=fields(
        infra={"type": "string", "pattern": "^gcp(/.*)?$"},
        accelerators={"type": "string", "pattern": r"^tpu-v\w+-\d+(:1)?$"},
        accelerator_args=fields(runtime_version=STRING, tpu_vm={"type": "boolean"}),
        use_spot={"type": "boolean"},
        disk_size=INTEGER,
        labels={"additionalProperties": STRING},
        job_recovery=fields(
            strategy={"enum": ["FAILOVER", "EAGER_NEXT_REGION"]},
            max_restarts_on_errors=INTEGER,
            recover_on_exit_codes={"type": "array", "items": {**INTEGER, "maximum": 255}},
        ),
    ),
)


def check_jobset(jobset):
    jsonschema.validate(jobset, JOBSET)
    for replicated in jobset["spec"]["replicatedJobs"]:
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": replicated["name"]},
            **replicated["template"],
        }
        for version in ("1.31", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(job, version, strict=True)


@pytest.fixture
def jobset():
    return load((LAUNCH / "gke_jobset.yaml").read_text())


def test_the_jobset_is_one_and_what_is_not_one_is_refused(jobset):
    check_jobset(jobset)
    broken = {
        "a field of JobSet": lambda j: j["spec"].update(maxRestarts=3),
        "a rule's action": lambda j: j["spec"]["failurePolicy"]["rules"][0].update(action="Ignore"),
        "a field of Job": lambda j: j["spec"]["replicatedJobs"][0]["template"]["spec"].update(
            retries=1
        ),
        "a field of a pod": lambda j: pod(j).update(terminationGracePeriod=30),
        "a type": lambda j: pod(j)["nodeSelector"].update({"cloud.google.com/gke-spot": True}),
    }
    for change in broken.values():
        changed = copy.deepcopy(jobset)
        change(changed)
        with pytest.raises(jsonschema.ValidationError):
            check_jobset(changed)


def test_a_key_that_is_there_twice_is_refused():
    with pytest.raises(yaml.constructor.ConstructorError, match="twice"):
        load("a: {b: 1, c: 2, b: 3}")


def pod(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_the_jobset_restarts_after_what_supervise_restarts_after(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert (rule["action"], codes["operator"]) == ("FailJob", "NotIn")
    assert jobset["spec"]["failurePolicy"]["rules"][0]["onJobFailureReasons"] == [
        "PodFailurePolicy"
    ]
    assert len(codes["values"]) <= 255  # the API's limit; sorted and without 0 by its rules
    assert codes["values"] == sorted(set(codes["values"]) - {0})
    asked = (
        f"for c in {{0..255}}; do {LAUNCH}/supervise.sh --would-restart=$c && echo $c; done; true"
    )
    restarted = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert [int(code) for code in restarted.stdout.split()] == codes["values"]

    (container,) = pod(jobset)["containers"]
    assert codes["containerName"] == container["name"]
    assert pod(jobset)["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert job["parallelism"] == job["completions"]
    chips = [
        int(n) for n in pod(jobset)["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    ]
    assert (
        chips[0] * chips[1]
        == job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    )


def test_the_skypilot_file_has_documented_fields_only():
    task = load((LAUNCH / "skypilot.yaml").read_text())
    jsonschema.validate(task, SKYPILOT)
    for code in task["resources"]["job_recovery"]["recover_on_exit_codes"]:
        rule = [LAUNCH / "supervise.sh", f"--would-restart={code}"]
        assert subprocess.run(rule).returncode == 0
    for part in ("setup", "run"):
        shellcheck("--shell=bash", "-", input=task[part])


def shellcheck(*args, **kwargs):
    program = Path(sys.executable).parent / "shellcheck"
    program = program if program.exists() else shutil.which("shellcheck")
    run = subprocess.run(
        [program, "--external-sources", f"--source-path={PROJECT}", *args],
        text=True,
        capture_output=True,
        **kwargs,
    )
    assert run.returncode == 0, run.stdout


def test_shell_scripts_are_clean_executable_and_careful():
    assert len(SCRIPTS) == 6
    shellcheck(*SCRIPTS)
    for script in SCRIPTS:
        sourced = script.name == "settings.sh"
        assert os.access(script, os.X_OK) != sourced, script
        assert ("set -euo pipefail\n" in script.read_text()) != sourced, script


# --- Slurm


def slurm(folder, *command, code=0, **variables):
    """The batch script, with `srun` ending as told and `scontrol` only noting its call."""
    for name, body in {
        "srun": f'echo "$@" >> calls; exit {code}',
        "scontrol": 'echo "scontrol $@" >> calls',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    if not (folder / "launch").exists():
        (folder / "launch").symlink_to(LAUNCH)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    run = subprocess.run(
        [LAUNCH / "slurm.sbatch", *command],
        cwd="/",
        text=True,
        capture_output=True,
        env=environment | {"SLURM_SUBMIT_DIR": str(folder)} | variables,
    )
    calls = folder / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return run, lines


STEP = "--kill-on-bad-exit=0 --wait=600 bertjax pretrain"


def test_slurm_requeues_what_a_restart_helps(tmp_path):
    for code, requeued in {0: False, 42: True, 65: False, 70: False, 130: False, 137: True}.items():
        run, calls = slurm(tmp_path, "bertjax", "pretrain", code=code)
        assert run.returncode == code
        assert calls == [STEP] + ["scontrol requeue 7"] * requeued
    run, calls = slurm(tmp_path, "bertjax", "pretrain", code=42, SLURM_RESTART_COUNT="100")
    assert (run.returncode, calls) == (42, [STEP])
    assert "given up" in run.stderr


def test_slurm_is_told_to_signal_the_processes_and_dry_runs(tmp_path):
    directives = re.findall(r"^#SBATCH (.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert "--signal=TERM@300" in directives  # with B: it would reach the script alone
    assert {"--requeue", "--open-mode=append"} <= set(directives)
    run, calls = slurm(tmp_path, "bertjax", "pretrain", DRY_RUN="1")
    assert calls == []
    assert run.stdout.replace("'", "") == f"srun {STEP}\nscontrol requeue 7\n"
    assert slurm(tmp_path)[0].returncode == 64


# --- pinned versions


def test_every_dependency_of_a_host_is_pinned():
    text = (LAUNCH / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pinned = dict(re.fullmatch(r"([a-z0-9-]+)==([\w.]+)", line).groups() for line in lines)
    assert list(pinned) == sorted(pinned)
    for requirement in requirements():
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(pinned[name]), requirement
    assert {"jaxlib", "libtpu", "gcsfs"} <= set(pinned)


def requirements():
    """What setup.py asks for, read from the metadata that pip made of it."""
    from importlib.metadata import requires

    found = [Requirement(line) for line in requires("bertjax")]
    return [r for r in found if r.marker is None]


def test_the_readme_begins_with_how_to_stop_the_cost_and_names_every_file():
    text = (LAUNCH / "README.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0].startswith("Clean up")
    for name in os.listdir(LAUNCH):
        if not name.startswith(("README", "__")):
            assert f"`{name}`" in text, name


def test_several_processes_on_one_machine_as_a_dry_run():
    command = [
        sys.executable,
        str(PROJECT / "launch/local.py"),
        "--cpu_devices=2",
        "--",
        "pretrain",
        "--workdir=a b",
    ]
    run = subprocess.run(command, env=os.environ | {"DRY_RUN": "1"}, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    address = re.search(r"127\.0\.0\.1:\d+", run.stdout)[0]
    assert run.stdout.splitlines() == [
        f"JAX_COORDINATOR_ADDRESS={address} JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={index} "
        "PYTHONUNBUFFERED=1 JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2 "
        f"{sys.executable} -m bertjax pretrain '--workdir=a b'"
        for index in range(2)
    ]


@pytest.mark.parametrize(
    ("codes", "final"),
    [
        ([0, 0], 0),
        ([42, 42], None),
        ([42, -9], None),
        ([0, -15], None),
        ([42, 65], 65),
        ([-9, 74], 74),
        ([42, 1], 1),  # a code that bertjax does not use: nobody promised that a restart helps
    ],
)
def test_only_42_and_signals_start_all_processes_again(codes, final):
    assert runpy.run_path(str(LAUNCH / "local.py"))["verdict"](codes) == final

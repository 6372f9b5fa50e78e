#!/usr/bin/env bash
# Makes one TPU VM of one or many hosts, sets it up, trains on it, shows its state, deletes it.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tpu_vm.sh create|setup|run|logs|status|stop|delete [--name=N --zone=Z --project=P] ...

  tpu_vm.sh create --accelerator-type=v4-32 --version=tpu-ubuntu2204-base [--spot | --reserved]
  tpu_vm.sh create --type=v4 --topology=2x2x4 --version=tpu-ubuntu2204-base
  tpu_vm.sh setup                     this checkout's commit, on every host
  tpu_vm.sh run -- bertjax pretrain --config=configs/bert_base.py --workdir=gs://BUCKET/run
  tpu_vm.sh logs [--worker=all|3]     follows; worker 0 by default
  tpu_vm.sh status                    of the node, and of the training on each host
  tpu_vm.sh stop                      SIGTERM on every host: saves, and exits with 42
  tpu_vm.sh delete                    deletes the node with its disks; the only end of its cost

`setup` and `run` need a checkout without local changes. `run` starts nothing unless every host is
at its commit. The training runs under supervise.sh, which restarts it, and continues when the
connection ends. Each host keeps its log in ~/bertjax-run/train.log. With several hosts, all hosts
must share the workdir: a bucket or a shared file system.

settings, from the environment or as flags: NAME, ZONE, PROJECT; to create, VERSION and either
  ACCELERATOR_TYPE or both TYPE and TOPOLOGY; COMMIT, an earlier commit of this checkout's history
gcloud accepts TYPE only for v4 and earlier; its alpha release accepts TYPE for the others too.
environment: CREATE_FLAGS, more flags for gcloud's create; SSH_FLAGS, for its ssh and scp;
  DRY_RUN=1 prints the commands, runs none
exit codes: 64 usage, 65 local changes, a shallow clone or hosts at another commit, else gcloud's
TEXT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/settings.sh
source "$here/settings.sh"

tpu_vm() { run gcloud compute tpus tpu-vm "$1" "${@:2}" "--zone=$ZONE" "--project=$PROJECT" --quiet; }

# Runs a command on one worker or on all, with mixed output. The exit code is a failed worker's.
on_workers() {
  # shellcheck disable=SC2086  # SSH_FLAGS holds words
  tpu_vm ssh "$NAME" "--worker=$1" "--command=$2" "${@:3}" ${SSH_FLAGS:-}
}

# Runs a command on all workers and prints the lines of each in order, as "worker 3: ...".
on_each_worker() {
  local directory worker code=0
  if [[ ${DRY_RUN:-} == 1 ]]; then
    on_workers all "$1" --output-directory=None
    return
  fi
  # Since version 443 gcloud writes to None/0.log in the current folder, not to the given directory.
  directory=$(mktemp -d)
  mkdir "$directory/None"
  (cd "$directory" && on_workers all "$1" --output-directory=None) >"$directory/gcloud" 2>&1 || code=$?
  for ((worker = 0; ; worker++)); do
    [[ -e $directory/None/$worker.log ]] || break
    sed "s/^/worker $worker: /" "$directory/None/$worker.log"
  done
  ((code == 0)) || tail -n 3 "$directory/gcloud" >&2
  rm -r "$directory"
  return "$code"
}

create() {
  local slice
  need VERSION
  slice_flags
  # shellcheck disable=SC2086  # CREATE_FLAGS holds words
  tpu_vm create "$NAME" "${slice[@]}" "--version=$VERSION" "${tier[@]}" ${CREATE_FLAGS:-}
  say "$NAME costs money until: $(show "$0" delete "--name=$NAME" "--zone=$ZONE" "--project=$PROJECT")"
}

setup() {
  local commit bundle
  commit=$(this_commit)
  make_bundle
  # shellcheck disable=SC2086  # SSH_FLAGS holds words
  tpu_vm scp "$bundle" "$here/setup_host.sh" "$NAME:" --worker=all ${SSH_FLAGS:-}
  on_workers all "bash setup_host.sh --commit=$commit --source=${bundle##*/}"
}

start() {
  local commit
  ((${#training[@]})) || die 64 'run: no command after --'
  commit=$(this_commit)
  on_each_worker "bertjax/launch/setup_host.sh --check=$commit" \
    || die 65 "not every host is at commit $commit; tpu_vm.sh setup brings them there"
  on_workers all "cd bertjax && PATH=\$PWD/.venv/bin:\$PATH launch/supervise.sh --state=\$HOME/bertjax-run --detach -- $(show "${training[@]}")"
}

logs() {
  on_workers "$worker" "tail -n 100 -F bertjax-run/train.log | sed -u \"s/^/\$HOSTNAME: /\""
}

status() {
  local state
  if [[ ${DRY_RUN:-} == 1 ]]; then
    tpu_vm describe "$NAME" '--format=value(state)'
  else
    state=$(tpu_vm describe "$NAME" '--format=value(state)')
    echo "node: $state"
    [[ $state == READY ]] || return 0
  fi
  on_each_worker 'bertjax/launch/supervise.sh --state=bertjax-run --report' | sed 's/supervise: //'
}

stop() { on_workers all 'bertjax/launch/supervise.sh --state=bertjax-run --stop'; }

delete() { tpu_vm delete "$NAME"; }

command=${1:-}
case $command in
  -h | --help) usage; exit 0 ;;
  create | setup | run | logs | status | stop | delete) shift ;;
  *) die 64 "'$command': not a command; see --help" ;;
esac
read_settings "$@"
worker=0 tier=()
for word in "${others[@]}"; do
  case $command/$word in
    create/--spot | create/--reserved) tier+=("$word") ;;
    logs/--worker=*) worker=${word#*=} ;;
    *) die 64 "$command $word: no such option; see --help" ;;
  esac
done
need NAME ZONE PROJECT
[[ $command != run ]] || command=start
"$command"

#!/usr/bin/env bash
# Trains on a queued resource: waits for it, trains, replaces it when it is preempted, deletes it.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tpu_queued.sh [--spot | --reserved] [--tries=10] [--hours=24] [settings] -- COMMAND ...

  tpu_queued.sh --spot --name=bert --zone=us-east5-b --project=P \
    --accelerator-type=v6e-16 --version=v2-alpha-tpuv6e --hours=72 \
    -- bertjax pretrain --config=configs/bert_base.py --workdir=gs://BUCKET/run

Asks for the resource, waits until it is ACTIVE, brings the commit that this checkout is at onto
every host (the same one to the end), starts COMMAND there under supervise.sh, and looks every POLL seconds. When the resource fails or
is preempted it is deleted and asked for again; when only the training ended (the hosts were
rebooted) it is started again; both within TRIES and HOURS. COMMAND must resume by itself from a
workdir outside the TPU.

Whatever the end, Ctrl-C and a closed terminal too, training is told to save and what was made
here is deleted, and only that: a resource NAME that is there already is refused, not touched. If
it cannot be deleted, the last lines say so and how to do it. Nothing on this side deletes anything
when this machine is switched off; the request alone expires, after HOURS.

settings: as of tpu_vm.sh (NAME, ZONE, PROJECT, ACCELERATOR_TYPE or TYPE and TOPOLOGY, VERSION,
  CREATE_FLAGS, SSH_FLAGS); the node is called NAME too, so tpu_vm.sh logs and status work
environment: POLL, seconds between two looks (30); DRY_RUN=1 prints the commands, runs none
exit codes: 0 trained to the end; the training's own if it ended with one that no restart helps
  (64, 65, 70, 130 ...); 75 tries or hours used up; 129, 130, 143 told to stop by SIGHUP, SIGINT,
  SIGTERM; 74 something was not deleted, or the cloud does not answer; 64 usage
TEXT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/settings.sh
source "$here/settings.sh"

tries=10 hours=24 tier=()
read_settings "$@"
for word in "${others[@]}"; do
  case $word in
    --spot | --reserved) tier=("$word") ;;
    --tries=*) tries=${word#*=} ;;
    --hours=*) hours=${word#*=} ;;
    *) die 64 "$word: no such option; see --help" ;;
  esac
done
need NAME ZONE PROJECT VERSION
slice_flags
[[ $tries =~ ^[1-9][0-9]*$ && $hours =~ ^[0-9]*\.?[0-9]+$ ]] \
  || die 64 "--tries=$tries --hours=$hours: must be positive numbers"
((${#training[@]})) || die 64 'no command after --'
poll=${POLL:-30}
deadline=$(($(date +%s) + $(awk "BEGIN { print int($hours * 3600 + 0.5) }")))

queued() {
  run gcloud compute tpus queued-resources "$1" "$NAME" "${@:2}" "--zone=$ZONE" "--project=$PROJECT" --quiet
}

# shellcheck disable=SC2329  # called by attend
create() {
  local minutes=$(((deadline - $(date +%s) + 59) / 60))
  # shellcheck disable=SC2086  # CREATE_FLAGS holds words
  queued create "--node-id=$NAME" "${slice[@]}" "--runtime-version=$VERSION" \
    "--valid-until-duration=${minutes}m" "${tier[@]}" ${CREATE_FLAGS:-}
}

describe() { queued describe '--format=value(state.state)'; }
delete() { queued delete --force; }

# The resource's state, NOT_FOUND, or UNKNOWN where the cloud did not say.
state() {
  local answer
  if answer=$(describe 2>&1); then
    tail -n 1 <<<"$answer"
  elif [[ $answer == *NOT_FOUND*"$NAME"* ]]; then # the resource, not a project or a program
    echo NOT_FOUND
  else
    say "describe: $answer"
    echo UNKNOWN
  fi
}

if [[ ${DRY_RUN:-} == 1 ]]; then
  show_step() {
    echo "# $1"
    "${@:2}"
  }
  show_step 'must not be there yet' describe
  show_step 'a try' create
  show_step 'until it is ACTIVE' describe
  show_step 'the same commit on every host' "$here/tpu_vm.sh" setup
  show_step 'start' "$here/tpu_vm.sh" run -- "${training[@]}"
  show_step 'until it is done' describe
  "$here/tpu_vm.sh" status
  show_step 'if told to stop' "$here/tpu_vm.sh" stop
  show_step 'always' delete
  exit 0
fi

# Runs a command so that a signal ends it and this script at once; its exit code is the command's.
command_pid=''
attend() {
  local code=0
  set -m # a process group: gcloud is a tree of processes
  "$@" </dev/null &
  command_pid=$!
  set +m
  wait "$command_pid" || code=$?
  command_pid=''
  return "$code"
}

made='' started='' scratch=$(mktemp -d)
# shellcheck disable=SC2329  # called by the trap
clean_up() {
  local code=$?
  trap '' INT TERM HUP # gcloud inherits it: a second Ctrl-C must not stop the deletion
  trap - EXIT
  if [[ $command_pid ]]; then
    kill -TERM -- "-$command_pid" 2>/dev/null || true
    wait "$command_pid" 2>/dev/null || true
  fi
  if [[ $started ]]; then
    say 'asking the training to save and stop'
    "$here/tpu_vm.sh" stop || say 'the training may not have saved'
  fi
  remove || code=74
  rm -rf "$scratch"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Deletes what was made here, and makes sure that it is gone.
remove() {
  local attempt
  started=''
  [[ $made ]] || return 0
  for attempt in {1..10}; do
    [[ $(state) == NOT_FOUND ]] || delete || true
    if [[ $(state) == NOT_FOUND ]]; then
      say "$NAME is deleted"
      made=''
      return 0
    fi
    say "$NAME is not deleted yet (attempt $attempt of 10)"
    sleep "$poll"
  done
  made=''
  cat >&2 <<TEXT

!!! $NAME WAS NOT DELETED AND MAY GO ON COSTING MONEY. Delete it:
!!! $(DRY_RUN=1 delete)
!!! and see that it is gone:
!!! $(show gcloud compute tpus queued-resources list "--zone=$ZONE" "--project=$PROJECT")
TEXT
  return 74
}

in_time() { (($(date +%s) < deadline)); }

# Makes the resource and waits until it is ACTIVE. 0: it is; 1: it will not be; 2: no time left.
acquire() {
  local now before='' code=0
  made=1 # before, not after: an interrupted request may have arrived
  attend create 2>"$scratch/create" || code=$?
  cat "$scratch/create" >&2
  if ((code)); then
    ! grep -q ALREADY_EXISTS "$scratch/create" || made='' # somebody else's
    ! grep -qE 'ALREADY_EXISTS|INVALID_ARGUMENT|PERMISSION_DENIED' "$scratch/create" || die 64 'refused'
    return 1
  fi
  while in_time; do
    now=$(state)
    [[ $now == "$before" ]] || say "$NAME is $now"
    before=$now
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | NOT_FOUND) return 1 ;;
    esac # CREATING, ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING, or nobody knows: wait
    attend sleep "$poll"
  done
  return 2
}

# Follows the training. Sets `outcome` to ended (its code in `code`), idle, lost or late.
watch() {
  local lines codes final unanswered=0 idle=0
  while in_time; do
    attend sleep "$poll"
    case $(state) in
      ACTIVE) ;;
      UNKNOWN) say 'the cloud does not answer' ;;
      *) outcome=lost; return ;;
    esac
    if attend "$here/tpu_vm.sh" status >"$scratch/status" 2>&1; then
      lines=$(<"$scratch/status") unanswered=0
    else
      unanswered=$((unanswered + 1))
      say "no answer from the hosts ($unanswered of 10)"
      ((unanswered < 10)) || { outcome=lost; return; }
      continue
    fi
    if grep -qE '^node: (PREEMPTED|TERMINATED|STOPP|DELETING)' <<<"$lines"; then
      outcome=lost
      return
    fi
    codes=$(sed -nE 's/^worker [0-9]+: stopped, exit code ([0-9]+)$/\1/p' <<<"$lines")
    for final in $codes; do
      if ((final)) && ! "$here/supervise.sh" "--would-restart=$final"; then
        say "$lines"
        outcome=ended code=$final
        return
      fi
    done
    if grep -qE '^worker [0-9]+: running' <<<"$lines"; then
      idle=0
    elif [[ $codes ]] \
      && ! grep -qE '^worker [0-9]+: (not started|died|stopped, exit code [1-9])' <<<"$lines"; then
      outcome=ended code=0
      return
    elif ((++idle == 2)); then # once may be a preemption that has not been announced yet
      say "$lines"
      outcome=idle
      return
    fi
  done
  outcome=late
}

# Whatever becomes of this checkout in the days to come, every replacement gets the commit of now.
COMMIT=$(this_commit)
TMPDIR=$scratch
export COMMIT TMPDIR
make_bundle

command -v gcloud >/dev/null || die 64 'gcloud: not installed'
now=$(state)
[[ $now != UNKNOWN ]] || die 74 "nobody says whether $NAME is there already"
[[ $now == NOT_FOUND ]] || die 64 "$NAME: is there already ($now), and was not made here; delete it, or take another --name"

for ((try = 1; try <= tries; try++)); do
  in_time || break
  say "try $try of $tries"
  if [[ ! $made ]]; then
    code=0
    acquire || code=$?
    ((code != 2)) || break
    if ((code)); then
      remove
      attend sleep "$poll"
      continue
    fi
  fi
  code=0
  attend "$here/tpu_vm.sh" setup || code=$?
  if ((code == 0)); then
    started=1
    attend "$here/tpu_vm.sh" run -- "${training[@]}" || code=$?
  fi
  if ((code == 64 || code == 65)); then
    exit "$code"
  elif ((code)); then
    outcome=lost
  else
    watch
  fi
  say "training: $outcome"
  case $outcome in
    ended)
      ((code)) || started=''
      exit "$code"
      ;;
    lost) remove ;;
    late) break ;;
  esac
done
die 75 "given up: $((try <= tries ? try : tries)) of $tries tries, $hours hours; the same command goes on from the last checkpoint"

#!/usr/bin/env bash
# Trains on a queued resource: waits for the resource, trains, replaces it if preempted, deletes it.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tpu_queued.sh [--spot | --reserved] [--tries=10] [--hours=24] [settings] -- COMMAND ...

  tpu_queued.sh --spot --name=bert --zone=us-east5-b --project=P \
    --accelerator-type=v6e-16 --version=v2-alpha-tpuv6e --hours=72 \
    -- bertjax pretrain --config=configs/bert_base.py --workdir=gs://BUCKET/run

Requests the resource, waits until it is ACTIVE, installs the commit of this checkout on every host
(the same commit to the end), starts COMMAND there under supervise.sh, and checks every POLL
seconds. If the resource fails or is preempted, it is deleted and requested again. If only the
training ended (a host was rebooted), the training is stopped and started again on all hosts. Both
happen within TRIES and HOURS. COMMAND must resume by itself from a workdir outside the TPU.

At every end, also after Ctrl-C or a closed terminal, the training is told to save, and the
resource that this run made is deleted, and no other. A resource NAME that exists already is refused
and not touched. The requests of this run carry their own description, which marks the resource. A
resource that changes its state refuses deletion; the script repeats the deletion for up to half an
hour. If the resource cannot be deleted, the last lines say so and name the command. If this machine
is switched off, nothing here deletes the resource; only the request expires after HOURS.

Every call has a time limit: a call that hangs is killed and counts as failed. When nobody reads the
output any more (the terminal is closed), the output goes to ~/tpu_queued-NAME.log.

settings: as of tpu_vm.sh (NAME, ZONE, PROJECT, ACCELERATOR_TYPE or TYPE and TOPOLOGY, VERSION,
  CREATE_FLAGS, SSH_FLAGS); the node is called NAME too, so tpu_vm.sh logs and status work
environment: POLL, seconds between two checks (30); STOP_LIMIT, seconds that the hosts have to save
  when told to stop (420); DRY_RUN=1 prints the commands, runs none
exit codes: 0 trained to the end; the training's exit code if a restart would not help (64, 65, 70,
  130 ...); 75 tries or hours used up; 129, 130, 131, 143 told to stop by SIGHUP, SIGINT, SIGQUIT,
  SIGTERM; 74 something was not deleted, or the cloud does not answer; 64 usage
TEXT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/settings.sh
source "$here/settings.sh"

exec 3>&2 # keeps stderr for a trap that comes while a command's output goes to a file
trap '' PIPE # the end of a reader (`| tee`, Ctrl-C to both) must not prevent the deletion

# Prints a line on stderr. If nobody reads stderr any more, this line and later ones go to a file.
tell() {
  echo "$*" >&2 || {
    exec >>"${HOME:-/tmp}/tpu_queued-${NAME:-}.log" 2>&1 || exec >/dev/null 2>&1
    echo "$*" >&2
  }
}
say() { tell "tpu_queued.sh: $*"; }

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

# Marks the resources of this run, so that they are recognized even if an answer was lost.
token=tpu_queued.sh-${HOSTNAME:-}-$$-$(date +%s)

in_time() { (($(date +%s) < deadline)); }

# The given number of seconds, or the rest of the budget if that is less.
at_most() {
  local left=$((deadline - $(date +%s)))
  echo $((left < 1 ? 1 : left < $1 ? left : $1))
}

# Runs a program for at most the given seconds (0: without limit). A signal to this script
# interrupts the wait. The exit code is the program's, or 137 for a killed program.
attend() {
  local code=0
  # The program has its own process group: gcloud is a tree of processes that must all end at once,
  # and Ctrl-C must not reach them. KILL, because processes started in clean_up ignore TERM.
  set -m
  timeout -s KILL "$1" "${@:2}" </dev/null &
  set +m
  wait "$!" 2>/dev/null || code=$?
  return "$code"
}

pause() { attend 0 sleep "$poll"; }

# Calls gcloud for the resource, for at most the given seconds.
queued() {
  local call=(gcloud compute tpus queued-resources "$2" "$NAME" "${@:3}" "--zone=$ZONE" "--project=$PROJECT" --quiet)
  if [[ ${DRY_RUN:-} == 1 ]]; then show "${call[@]}"; else attend "$1" "${call[@]}"; fi
}

create() {
  local minutes=$(((deadline - $(date +%s) + 59) / 60))
  # shellcheck disable=SC2086  # CREATE_FLAGS holds words
  queued "$(at_most 600)" create "--node-id=$NAME" "${slice[@]}" "--runtime-version=$VERSION" \
    "--valid-until-duration=${minutes}m" "${tier[@]}" ${CREATE_FLAGS:-} "--description=$token"
}

describe() { queued 120 describe '--format=value(state.state,tpu.nodeSpec[0].node.description)'; }
delete() { queued 600 delete --force; }
stop() { attend "${STOP_LIMIT:-420}" "$here/tpu_vm.sh" stop; }

# Sets `now` to the resource's state, to NOT_FOUND, or to UNKNOWN if the cloud did not answer, and
# `mark` to the resource's description.
look() {
  local error
  now='' mark=''
  if describe >"$scratch/found" 2>"$scratch/error"; then
    IFS=$'\t' read -r now mark <"$scratch/found" || true
  else
    error=$(<"$scratch/error")
    case $error in
      *NOT_FOUND*"$NAME"*) now=NOT_FOUND ;; # names the resource, not a project or a program
      *) say "describe: ${error:-no answer}" ;;
    esac
  fi
  now=${now:-UNKNOWN}
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
  show_step 'if told to stop, or a host fell out' "$here/tpu_vm.sh" stop
  show_step 'always' delete
  exit 0
fi

# `made` is empty, perhaps (a request is on its way, or has no answer) or yes.
made='' started='' scratch=$(mktemp -d)
# shellcheck disable=SC2329  # called by the traps
clean_up() {
  trap '' HUP INT QUIT TERM EXIT # further signals must not interrupt the deletion
  set +e
  exec 2>&3
  mkdir -p "$scratch" # /tmp may have been cleaned after days, and deleting needs the folder
  local code=$1 group
  for group in $(jobs -p); do kill -KILL -- "-$group"; done 2>/dev/null
  wait 2>/dev/null
  if [[ $started ]]; then
    say 'asking the training to save and stop'
    stop >"$scratch/stop" 2>&1 || say "the training may not have saved: $(tail -n 3 "$scratch/stop")"
  fi
  remove || code=74
  rm -rf "$scratch"
  exit "$code"
}
# Not `exit 130`: a signal at the start of clean_up, not ignored yet, would then end the script.
trap 'clean_up $?' EXIT
trap 'clean_up 129' HUP
trap 'clean_up 130' INT
trap 'clean_up 131' QUIT
trap 'clean_up 143' TERM

# Deletes the resource of this run, and makes sure that it is gone.
remove() {
  local attempt=0 absent=0 patience=$(($(date +%s) + 1800))
  started=''
  [[ $made ]] || return 0
  while ((attempt < 10)); do
    [[ $made == perhaps ]] || delete >"$scratch/delete" 2>&1 || say "delete: $(tail -n 3 "$scratch/delete")"
    look
    if [[ $made == perhaps && $mark == "$token" ]]; then
      made=yes
      continue
    fi
    case $made/$now in
      yes/NOT_FOUND)
        say "$NAME is deleted"
        made=''
        return 0
        ;;
      perhaps/NOT_FOUND) # the requested resource may still arrive
        if ((++absent == 3)); then
          say "$NAME was not made"
          made=''
          return 0
        fi
        ;;
      yes/*ING | */UNKNOWN)
        say "$NAME is $now, not deleted yet"
        (($(date +%s) < patience)) || break
        ;;
      yes/*)
        attempt=$((attempt + 1))
        say "$NAME is $now, not deleted yet (attempt $attempt of 10)"
        ;;
      perhaps/*)
        say "$NAME is there ($now), and was not made here: left alone"
        made=''
        return 0
        ;;
    esac
    pause
  done
  made=''
  tell "
!!! $NAME WAS NOT DELETED AND MAY GO ON COSTING MONEY. Delete it:
!!! $(DRY_RUN=1 delete)
!!! and see that it is gone:
!!! $(show gcloud compute tpus queued-resources list "--zone=$ZONE" "--project=$PROJECT")"
  return 74
}

# Makes the resource and waits until it is ACTIVE. Returns 0 if ACTIVE, 1 if failed, 2 out of time.
acquire() {
  local before='' code=0
  made=perhaps # set before the request, because an interrupted request may have arrived
  create 2>"$scratch/create" || code=$?
  [[ ! -s $scratch/create ]] || tell "$(<"$scratch/create")"
  if ((code == 0)); then
    made=yes
  elif ((code == 2)) || grep -qE 'INVALID_ARGUMENT|PERMISSION_DENIED' "$scratch/create"; then
    made=''
    die 64 'refused'
  elif grep -q ALREADY_EXISTS "$scratch/create"; then
    # The resource is somebody else's, or ours: gcloud itself repeats a request without an answer.
    look
    case $now/$mark in
      */"$token") made=yes ;;
      NOT_FOUND/* | UNKNOWN/*) return 1 ;;
      *) made='' ; die 64 "$NAME was made by somebody else meanwhile; take another --name" ;;
    esac
  else
    return 1
  fi
  while in_time; do
    look
    [[ $now == "$before" ]] || say "$NAME is $now"
    before=$now
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | NOT_FOUND) return 1 ;;
    esac # CREATING, ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING, UNKNOWN: wait
    pause
  done
  return 2
}

# Follows the training. Sets `outcome` to ended (its code in `code`), idle, lost or late.
watch() {
  local lines codes final unanswered=0 idle=0
  while in_time; do
    pause
    look
    case $now in
      ACTIVE) ;;
      UNKNOWN) say 'the cloud does not answer' ;;
      *) outcome=lost; return ;;
    esac
    if attend "$(at_most 180)" "$here/tpu_vm.sh" status >"$scratch/status" 2>&1; then
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
    # A training cannot continue without one of its hosts, however often the others restart.
    if ! grep -qE '^worker [0-9]+: (not started|died|stopped, exit code [1-9])' <<<"$lines"; then
      if grep -qE '^worker [0-9]+: running' <<<"$lines"; then
        idle=0
        continue
      elif [[ $codes ]]; then
        outcome=ended code=0
        return
      fi
    fi
    if ((++idle == 2)); then # the first time may be a preemption that is not announced yet
      say "$lines"
      outcome=idle
      return
    fi
  done
  outcome=late
}

# Every replacement gets the commit of now, even if this checkout changes in the following days.
COMMIT=$(this_commit)
TMPDIR=$scratch
export COMMIT TMPDIR
make_bundle

for program in gcloud timeout; do
  command -v "$program" >/dev/null || die 64 "$program: not installed"
done
look
[[ $now != UNKNOWN ]] || die 74 "the cloud does not answer whether $NAME exists already; try again"
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
      pause
      continue
    fi
  fi
  code=0
  attend "$(at_most 3600)" "$here/tpu_vm.sh" setup || code=$?
  if ((code == 0)); then
    started=1
    attend "$(at_most 900)" "$here/tpu_vm.sh" run -- "${training[@]}" || code=$?
    # After a dropped connection, gcloud repeats the command on hosts where it runs already.
    ((code != 64)) || code=0
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
    idle) stop || true ;;
    late) break ;;
  esac
done
die 75 "given up: $((try <= tries ? try : tries)) of $tries tries, $hours hours; the same command goes on from the last checkpoint"

#!/usr/bin/env bash
# Restarts a command as long as its exit code allows a restart and it makes progress.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: supervise.sh [--workdir=W] [--failures=5] [--minutes=60] [--state=DIR [--detach]] -- COMMAND ...
       supervise.sh --state=DIR --report | --stop
       supervise.sh --would-restart=CODE

Runs COMMAND, and runs it again when it ends with
  42                     preempted, or a peer lost: the same command resumes
  127-255 without 130    killed by a signal (128 + its number), or could not be started now
It stops with the command's exit code on every other code:
  0                      done
  64 65 70 74            usage or config, bad data or checkpoint, internal or not finite, disk
  130                    Ctrl-C twice: the user wants an end, although 130 is 128 + a signal
  1-41 43-63 ...         codes that bertjax does not use; a restart may not help

Between two attempts it waits 5, 10, 20 ... up to 320 s. Progress resets the wait to 5 s: the newest
step under W/checkpoints, or the last step in W/metrics.jsonl, is higher than ever before. After
FAILURES failures within MINUTES minutes without progress it stops with exit code 70. SIGTERM,
SIGINT and SIGHUP are passed to the command; after them nothing is restarted, and the exit code is
the command's. Each attempt prints one line on stderr.

  --workdir=W         the folder to check for progress, also gs://; default: COMMAND's --workdir
  --state=DIR         keeps attempts.log and the last exit code in DIR, and refuses a second
                      supervisor while this one, or a process that it started, lives
  --detach            runs in the background and survives a closed terminal; output goes to
                      DIR/train.log; exit code 70 if nothing was started
  --report            prints one line: not started, running, stopped with its exit code, or died
                      (a reboot)
  --stop              sends SIGTERM to the command, even if its supervisor was killed, and waits up
                      to 300 s for its end
  --would-restart=CODE  exit code 0 if CODE leads to a restart, else 1
environment: DRY_RUN=1 prints COMMAND and runs nothing; SUPERVISE_UNIT, seconds, instead of 5
TEXT
}

usage_error() {
  echo "supervise.sh: $*; see --help" >&2
  exit 64
}

restartable() { (($1 == 42 || ($1 >= 127 && $1 <= 255 && $1 != 130))); }

# The highest step that W has reached, as far as checkpoints and metrics tell.
furthest_step() {
  {
    echo 0
    case $workdir in
      '') ;;
      gs://*) gcloud storage ls "$workdir/checkpoints/" 2>/dev/null | sed -nE 's#.*/([0-9]+)/$#\1#p' ;;
      *)
        for path in "$workdir"/checkpoints/*; do echo "${path##*/}"; done | grep -xE '[0-9]+'
        tail -n 100 "$workdir/metrics.jsonl" 2>/dev/null | sed -nE 's/^\{"step": ?([0-9]+)[,}].*/\1/p'
        ;;
    esac || true
  } | sort -n | tail -n 1
}

# Whether nothing holds the lock. The test takes a shared lock, so two tests at once both succeed.
free() { flock --shared --nonblock "$state/lock" true; }

report() {
  local code=
  [[ ! -e $state/code ]] || code=$(<"$state/code")
  if [[ -e $state/lock ]] && ! free; then
    echo "supervise: running${code:+, exit code of the attempt before $code}"
  elif [[ -e $state/pid ]]; then
    echo 'supervise: died'
  elif [[ $code ]]; then
    echo "supervise: stopped, exit code $code"
  else
    echo 'supervise: not started'
  fi
}

stop() {
  local supervisor child parent=''
  [[ -e $state/lock ]] || return 0
  if ! free; then
    supervisor=$(cat "$state/pid" || true) child=$(cat "$state/child" 2>/dev/null || true)
    [[ ! $child ]] || parent=$(ps -o ppid= -p "$child" | tr -d ' ' || true)
    # If the supervisor was killed, the command has another parent, and nothing passes signals on.
    [[ ! $parent || $parent == "$supervisor" ]] || supervisor=$child
    kill -TERM "$supervisor" || true
    flock --shared --wait 300 "$state/lock" true || { echo 'supervise.sh: still running after 300 s' >&2; exit 75; }
  fi
  report
}

workdir='' failures_allowed=5 minutes=60 state='' action=run detach=''
while (($#)); do
  case $1 in
    --workdir=*) workdir=${1#*=} ;;
    --failures=*) failures_allowed=${1#*=} ;;
    --minutes=*) minutes=${1#*=} ;;
    --state=*) state=${1#*=} ;;
    --detach) detach=1 ;;
    --report | --stop) action=${1#--} ;;
    --would-restart=*)
      [[ ${1#*=} =~ ^[0-9]+$ ]] || usage_error "$1: no exit code"
      if restartable "${1#*=}"; then exit 0; else exit 1; fi
      ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) usage_error "$1: no such option (the command comes after --)" ;;
  esac
  shift
done
[[ $failures_allowed =~ ^[1-9][0-9]*$ && $minutes =~ ^[1-9][0-9]*$ ]] \
  || usage_error "--failures=$failures_allowed --minutes=$minutes: must be positive whole numbers"
[[ $state || ($action == run && ! $detach) ]] || usage_error '--state: missing'
if [[ $action != run ]]; then
  "$action"
  exit 0
fi
(($#)) || usage_error 'no command after --'
if [[ ! $workdir ]]; then
  previous=''
  for word; do # like absl: one dash or two, and the value after = or in the next word
    [[ ! $previous =~ ^--?workdir$ ]] || workdir=$word
    [[ ! $word =~ ^--?workdir= ]] || workdir=${word#*=}
    previous=$word
  done
fi
if [[ ${DRY_RUN:-} == 1 ]]; then
  printf '%s\n' "${*@Q}"
  exit 0
fi

if [[ $state ]]; then
  mkdir -p "$state"
  taken() { usage_error "$state: something runs there already; --stop ends it"; }
  free || taken
  if [[ $detach ]]; then
    flock --wait 5 "$state/lock" rm -f "$state/code" "$state/pid" || taken
    setsid bash "$(realpath "$0")" --workdir="$workdir" --failures="$failures_allowed" \
      --minutes="$minutes" --state="$state" -- "$@" >>"$state/train.log" 2>&1 </dev/null &
    until [[ -e $state/pid && $(<"$state/pid") == "$!" ]] || ! kill -0 "$!" 2>/dev/null; do
      sleep 0.05
    done
    report
    [[ -e $state/pid || -e $state/code ]] || exit 70 # the supervisor ended before its first attempt
    exit 0
  fi
  # Processes of the command inherit the lock, so a process that outlives this shell still holds it.
  exec 9>>"$state/lock"
  flock --wait 5 9 || taken # waits, because --report holds the lock for a moment
  rm -f "$state/code"
  echo $$ >"$state/pid"
fi

say() {
  local line
  line="$(date -u +%FT%TZ) supervise: $*"
  echo "$line" >&2
  [[ ! $state ]] || echo "$line" >>"$state/attempts.log"
}

child='' told='' signals=0 code=0
# shellcheck disable=SC2317  # called by the traps
on_signal() {
  told=$1 signals=$((signals + 1))
  [[ ! $child ]] || kill -"$1" "$child" 2>/dev/null || true
}
for name in TERM INT HUP; do
  # shellcheck disable=SC2064  # $name must expand now
  trap "on_signal $name" "$name"
done

# Runs a command to its end, through any number of signals. Sets `code` to its exit code.
attend() {
  local seen
  # The command has its own process group, so Ctrl-C reaches it only once, through on_signal.
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  [[ ! $state ]] || echo "$child" >"$state/child" || true # a full disk must not end the supervisor
  [[ ! $told ]] || kill -"$told" "$child" 2>/dev/null || true
  while :; do
    seen=$signals code=0
    wait "$child" || code=$?
    [[ $signals != "$seen" ]] || break
  done
  child=''
  [[ ! $state ]] || rm -f "$state/child"
}

finish() {
  [[ ! $state ]] || rm -f "$state/pid"
  exit "$1"
}

attempt=0 unproductive=0 failed_at=() best=$(furthest_step)
while :; do
  attempt=$((attempt + 1)) started=$SECONDS
  attend "$@"
  [[ ! $state ]] || echo "$code" >"$state/code"
  step=$(furthest_step)
  summary="attempt=$attempt code=$code seconds=$((SECONDS - started)) step=$step"
  if [[ $told ]]; then
    say "$summary: told to stop by SIG$told"
    finish "$code"
  elif ! restartable "$code"; then
    say "$summary: not restarted"
    finish "$code"
  fi

  if ((step > best)); then
    best=$step unproductive=0 failed_at=()
  else
    now=$(date +%s) unproductive=$((unproductive + 1))
    recent=("$now")
    for moment in "${failed_at[@]}"; do
      ((now - moment > minutes * 60)) || recent+=("$moment")
    done
    failed_at=("${recent[@]}")
  fi
  if ((${#failed_at[@]} >= failures_allowed)); then
    say "$summary: $failures_allowed failures within $minutes minutes without progress, given up"
    [[ ! $state ]] || echo 70 >"$state/code"
    finish 70
  fi
  doublings=$((unproductive < 1 ? 0 : unproductive > 6 ? 6 : unproductive - 1))
  pause=$(awk "BEGIN { print ${SUPERVISE_UNIT:-5} * 2 ^ $doublings }")
  say "$summary: again in $pause s"
  last=$code
  attend sleep "$pause"
  if [[ $told ]]; then
    say "told to stop by SIG$told, code=$last"
    finish "$last"
  fi
done

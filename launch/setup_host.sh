#!/usr/bin/env bash
# Installs one commit of bertjax on this host, with pinned versions; safe to run again.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: setup_host.sh --commit=SHA --source=URL|FOLDER|BUNDLE [--dir=bertjax] [--extras=tpu,gcs]
       setup_host.sh --check=SHA [--dir=bertjax]

Checks the commit out into DIR (made if missing) and installs it into DIR/.venv. Dependencies have
the versions of launch/constraints.txt, so every host and every replacement runs the same code.
DIR/.venv/.ready holds the installed commit. If this is SHA already, nothing is done. If the file is
missing, .venv is incomplete and is made again.

--check changes nothing: exit code 0 and one line if DIR is at SHA, without changes, and installed;
else 65. Untracked files, such as a workdir, do not count as changes.

exit codes: 64 usage, 65 local changes or another commit, 74 the commit cannot be fetched
environment: PYTHON, an interpreter of version 3.11 or later (default: the newest on PATH; without
  one, `uv` is installed for this user and brings 3.12); DRY_RUN=1 prints the commands, runs none
TEXT
}

say() { echo "setup_host.sh: $*"; }
die() {
  local code=$1
  shift
  echo "setup_host.sh: $*" >&2
  exit "$code"
}
run() {
  if [[ ${DRY_RUN:-} == 1 ]]; then echo "${*@Q}"; else "$@"; fi
}

uv_version=0.13.9
commit='' check='' source='' directory=bertjax extras=tpu,gcs
for word; do
  case $word in
    --commit=*) commit=${word#*=} ;;
    --check=*) check=${word#*=} ;;
    --source=*) source=${word#*=} ;;
    --dir=*) directory=${word#*=} ;;
    --extras=*) extras=${word#*=} ;;
    -h | --help) usage; exit 0 ;;
    *) die 64 "$word: no such option; see --help" ;;
  esac
done
[[ ${commit:-$check} =~ ^[0-9a-f]{40}$ ]] || die 64 "commit '${commit:-$check}': give all 40 digits"
directory=$(realpath -m "$directory")

# Untracked files do not count: a training may have its workdir here.
changes() { git -C "$directory" status --porcelain --untracked-files=no; }
head_commit() { git -C "$directory" rev-parse --verify --quiet HEAD || echo none; }
installed() { cat "$directory/.venv/.ready" 2>/dev/null || echo none; }

if [[ $check ]]; then
  [[ -d $directory/.git ]] || die 65 "$directory: not set up"
  [[ $(head_commit) == "$check" ]] || die 65 "$directory: at commit $(head_commit), not $check"
  [[ ! $(changes) ]] || die 65 "$directory: local changes: $(changes | tr '\n' ' ')"
  [[ $(installed) == "$check" ]] || die 65 "$directory/.venv: has $(installed) installed, not $check"
  say "ready at $check"
  exit 0
fi
[[ $source ]] || die 64 '--source: missing'
[[ ! -e $source ]] || source=$(realpath "$source")

# Debian's Python lacks ensurepip, which venv needs, unless python3-venv is installed.
suits() { "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Sets `python` to the interpreter to use.
find_python() {
  for python in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
    ! suits "$python" || return 0
  done
  [[ ! ${PYTHON:-} ]] || die 64 "PYTHON=$PYTHON: no Python 3.11 or later with venv"
  run env PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user "uv==$uv_version"
  run python3 -m uv python install --quiet 3.12
  python=python3.12
  [[ ${DRY_RUN:-} == 1 ]] || python=$(python3 -m uv python find 3.12)
}

if [[ ${DRY_RUN:-} != 1 ]]; then
  exec 9>>"$directory.lock"
  flock 9 # a second setup waits for the first, and then finds its work done
fi
if [[ ! -d $directory/.git ]]; then
  run git init --quiet "$directory"
elif [[ $(changes) ]]; then
  die 65 "$directory: local changes, not touched: $(changes | tr '\n' ' ')"
fi
if [[ $(head_commit 2>/dev/null) != "$commit" ]]; then
  # A server may give a commit by its SHA. A bundle and most folders offer only HEAD.
  run git -C "$directory" fetch --quiet "$source" "$commit" 2>/dev/null \
    || run git -C "$directory" fetch --quiet "$source" HEAD \
    || die 74 "$source: commit $commit cannot be fetched"
  run git -C "$directory" checkout --quiet --detach "$commit" \
    || die 65 "$source: has no commit $commit"
fi
if [[ $(installed) == "$commit" ]]; then
  say "ready at $commit"
  exit 0
fi
if [[ $(installed) == none ]]; then
  find_python
  run "$python" -m venv --clear "$directory/.venv"
fi
run rm -f "$directory/.venv/.ready"
run "$directory/.venv/bin/python" -m pip install --quiet \
  --constraint "$directory/launch/constraints.txt" --editable "${directory}[$extras]"
if [[ ${DRY_RUN:-} != 1 ]]; then
  echo "$commit" >"$directory/.venv/.ready.new"
  mv "$directory/.venv/.ready.new" "$directory/.venv/.ready"
  say "ready at $commit"
fi

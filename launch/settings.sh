# Sourced by tpu_vm.sh and tpu_queued.sh: which TPU is meant, and how a command runs or is shown.
# shellcheck shell=bash disable=SC2034

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then # macOS brings 3.2: empty arrays fail
  echo "${0##*/}: bash $BASH_VERSION: 4.4 or later is needed, first on PATH" >&2
  exit 64
fi

say() { echo "${0##*/}: $*" >&2; }

die() {
  local code=$1
  shift
  say "$@"
  exit "$code"
}

# Reads --name=... and so on into NAME ...; what it does not know goes to the array `others`, and
# what follows -- to the array `training`.
read_settings() {
  others=() training=()
  while (($#)); do
    case $1 in
      --name=*) NAME=${1#*=} ;;
      --zone=*) ZONE=${1#*=} ;;
      --project=*) PROJECT=${1#*=} ;;
      --accelerator-type=*) ACCELERATOR_TYPE=${1#*=} TYPE='' TOPOLOGY='' ;;
      --type=*) TYPE=${1#*=} ACCELERATOR_TYPE='' ;;
      --topology=*) TOPOLOGY=${1#*=} ;;
      --version=*) VERSION=${1#*=} ;;
      -h | --help) usage; exit 0 ;;
      --) shift; training=("$@"); break ;;
      *) others+=("$1") ;;
    esac
    shift
  done
  export NAME ZONE PROJECT ACCELERATOR_TYPE TYPE TOPOLOGY VERSION
}

need() {
  local name
  for name; do
    [[ ${!name:-} ]] || die 64 "$name: missing; set it, or --$(tr A-Z_ a-z- <<<"$name")=; see --help"
  done
}

# The flags that say how large a slice, in the array `slice`: by type, or by chips and their shape.
slice_flags() {
  if [[ ${ACCELERATOR_TYPE:-} ]]; then
    [[ ! ${TYPE:-}${TOPOLOGY:-} ]] || die 64 'ACCELERATOR_TYPE or TYPE with TOPOLOGY, not both'
    slice=("--accelerator-type=$ACCELERATOR_TYPE")
  else
    [[ ${TYPE:-} && ${TOPOLOGY:-} ]] || die 64 'ACCELERATOR_TYPE, or TYPE and TOPOLOGY: missing; see --help'
    slice=("--type=$TYPE" "--topology=$TOPOLOGY")
  fi
}

# A command as it can be pasted into a shell.
show() {
  local word line=()
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then line+=("$word"); else line+=("${word@Q}"); fi
  done
  echo "${line[*]}"
}

run() {
  if [[ ${DRY_RUN:-} == 1 ]]; then show "$@"; else "$@"; fi
}

this_checkout=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")

in_checkout() { git -C "$this_checkout" "$@"; }

# The commit that hosts get: COMMIT, or what this checkout is at.
this_commit() {
  local changes
  if [[ ! ${COMMIT:-} ]]; then
    changes=$(in_checkout status --porcelain)
    [[ ! $changes ]] || die 65 "local changes, which the hosts would not have; commit them: $(tr '\n' ' ' <<<"$changes")"
  fi
  in_checkout rev-parse --verify --quiet "${COMMIT:-HEAD}^{commit}" \
    || die 64 "COMMIT=${COMMIT:-HEAD}: no commit of this checkout"
}

# Packs the checkout's history up to HEAD into $bundle, once: hosts then need no access to a server.
make_bundle() {
  local commit
  commit=$(this_commit)
  bundle=${TMPDIR:-/tmp}/bertjax-$commit.bundle
  [[ ! -e $bundle ]] || return 0
  [[ $(in_checkout rev-parse --is-shallow-repository) == false ]] \
    || die 65 'a shallow clone, whose history the hosts would lack; first: git fetch --unshallow'
  in_checkout merge-base --is-ancestor "$commit" HEAD \
    || die 64 "COMMIT=$commit: not in the history of what is checked out"
  run git -C "$this_checkout" bundle create --quiet "$bundle" HEAD
}

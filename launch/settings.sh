# Sourced by tpu_vm.sh and tpu_queued.sh: settings of the TPU, and ways to run or show a command.
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

# Reads --name=... into NAME, and so on. Unknown words go to the array `others`, and the words after
# -- to the array `training`.
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

# Sets the array `slice` to the flags for the size of the slice: accelerator type, or chip type and
# topology.
slice_flags() {
  if [[ ${ACCELERATOR_TYPE:-} ]]; then
    [[ ! ${TYPE:-}${TOPOLOGY:-} ]] || die 64 'ACCELERATOR_TYPE or TYPE with TOPOLOGY, not both'
    slice=("--accelerator-type=$ACCELERATOR_TYPE")
  else
    [[ ${TYPE:-} && ${TOPOLOGY:-} ]] || die 64 'ACCELERATOR_TYPE, or TYPE and TOPOLOGY: missing; see --help'
    slice=("--type=$TYPE" "--topology=$TOPOLOGY")
  fi
}

# Prints a command in a form that can be pasted into a shell.
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

# The commit for the hosts: COMMIT, or the commit of this checkout.
this_commit() {
  local changes
  if [[ ! ${COMMIT:-} ]]; then
    changes=$(in_checkout status --porcelain)
    [[ ! $changes ]] || die 65 "local changes, which the hosts would not have; commit them: $(tr '\n' ' ' <<<"$changes")"
  fi
  in_checkout rev-parse --verify --quiet "${COMMIT:-HEAD}^{commit}" \
    || die 64 "COMMIT=${COMMIT:-HEAD}: no commit of this checkout"
}

# Packs the history of the checkout up to HEAD into $bundle, once. Then hosts need no git server.
make_bundle() {
  local commit
  commit=$(this_commit)
  bundle=${TMPDIR:-/tmp}/bertjax-$commit.bundle
  [[ ! -e $bundle ]] || return 0
  [[ $(in_checkout rev-parse --is-shallow-repository) == false ]] \
    || die 65 'a shallow clone, whose history the hosts would lack; first: git fetch --unshallow'
  in_checkout merge-base --is-ancestor "$commit" HEAD \
    || die 64 "COMMIT=$commit: not in the history of the checked-out commit"
  run git -C "$this_checkout" bundle create --quiet "$bundle" HEAD
}

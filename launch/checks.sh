# What the launch scripts share. Source it; it runs nothing.
# shellcheck shell=bash

DRY_RUN=${DRY_RUN:-}

# need NAME "what it is": stops with a sentence when the variable is not set.
need() {
  if [[ -z ${!1:-} ]]; then
    echo "$(basename "$0"): set $1 ($2)" >&2
    exit 2
  fi
}

# run COMMAND...: runs it, or prints it, quoted for a shell, with --dry-run.
run() {
  if [[ -n $DRY_RUN ]]; then
    printf '%s\n' "${*@Q}"
  else
    "$@"
  fi
}

# command_of "$@": what follows `--` in ARGV and, quoted, in COMMAND; --dry-run before it sets DRY_RUN; the rest goes to REST.
command_of() {
  COMMAND='' ARGV=() REST=()
  while (($#)); do
    case $1 in
      --dry-run) DRY_RUN=1 ;;
      --)
        shift
        # shellcheck disable=SC2034  # local.sh uses it
        ARGV=("$@") COMMAND="${*@Q}"
        break
        ;;
      *) REST+=("$1") ;;
    esac
    shift
  done
  if [[ -z $COMMAND ]]; then
    echo "$(basename "$0"): no command; put it after --, for example -- llama3 pretrain --config=configs/llama3_8b.py" >&2
    exit 2
  fi
}

# shellcheck shell=bash disable=SC2154
# What the commands of scripts/ and of secrets/ share, whose lib.sh sets command_name; bash ≥ 3.2 and the tools of POSIX.

say() { printf '%s\n' "$*"; }
# die WHAT [LINE…]: ends with what happened, then the rule behind it or the next command, one argument a line.
die() {
  printf '%s: %s\n' "$command_name" "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# Sets context to the one of kubectl; ends where its cluster does not answer.
find_cluster() {
  local error
  context=$(kubectl config current-context 2>/dev/null) || context='(in a pod)'
  error=$(kubectl version --request-timeout=10s 2>&1 >/dev/null) || die "the cluster of context $context does not answer" \
    "kubectl says: $(printf '%s\n' "$error" | tail -1)" "next: kubectl config use-context …, or set KUBECONFIG"
}

# from_dotenv NAME: what .env says of a variable, read as Compose reads it: the last line counts, quotes are no part of the
# value, and a comment behind it is none either.
from_dotenv() {
  [ -f .env ] || return 0
  tr -d '\r' <.env | sed -n "s/^[[:space:]]*\(export[[:space:]]\{1,\}\)\{0,1\}$1[[:space:]]*[=:][[:space:]]*//p" | tail -1 |
    sed -e 's/^"\([^"]*\)".*$/\1/' -e t -e "s/^'\([^']*\)'.*\$/\1/" -e t -e 's/^#.*$//' -e 's/[[:space:]]\{1,\}#.*$//' -e 's/[[:space:]]*$//'
}

# The containers run as users of their own, who read these of the tree: a clone made under a umask of 077 hides them. What is
# another's is as he left it.
chmod a+rX scripts/inside scripts/inside/* src/platform/nats.conf 2>/dev/null || true

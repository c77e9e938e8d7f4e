# shellcheck shell=bash
# What the commands for a cluster share. They act on the cluster of kubectl's context.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*"; }

# What happened, then the rule behind it or the next command, one argument a line.
die() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

command -v kubectl >/dev/null || die "kubectl is not installed" "next: kubernetes.io/docs/tasks/tools, then run this again"
# shellcheck disable=SC2034 # read by the commands
context=$(kubectl config current-context 2>/dev/null) || context='(in a pod)'
error=$(kubectl version --request-timeout=10s 2>&1 >/dev/null) || die "the cluster of context $context does not answer" \
  "kubectl says: $(printf '%s\n' "$error" | tail -1)" "next: kubectl config use-context …, or set KUBECONFIG"

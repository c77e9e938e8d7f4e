# shellcheck shell=bash
# What the commands share that are for a cluster alone. They act on the cluster of kubectl's context.
TARGET=cluster
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command -v kubectl >/dev/null || die "kubectl is not installed" "next: kubernetes.io/docs/tasks/tools, then run this again"
# shellcheck disable=SC2034 # read by the commands
context=$(kubectl config current-context 2>/dev/null) || context='(in a pod)'
error=$(kubectl version --request-timeout=10s 2>&1 >/dev/null) || die "the cluster of context $context does not answer" \
  "kubectl says: $(printf '%s\n' "$error" | tail -1)" "next: kubectl config use-context …, or set KUBECONFIG"

# shellcheck shell=bash
# What the commands share that are for a cluster alone. They act on the cluster of kubectl's context.
TARGET=cluster
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command -v kubectl >/dev/null || die "kubectl is not installed" "next: kubernetes.io/docs/tasks/tools, then run this again"
find_cluster

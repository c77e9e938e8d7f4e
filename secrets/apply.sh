#!/usr/bin/env bash
# apply.sh ENV [NAMESPACE]: puts the sealed secrets of ENV into the cluster of kubectl's context as the Secret bodega, and
# restarts exactly what mounts a changed key. Plaintext goes through pipes only.
. "$(dirname "$0")/lib.sh"
environment "${1:-dev}"
namespace=${2:-bodega}
need sops openssl kubectl
read_template
[ -f "$sealed" ] || die "$sealed is missing" "next: make secrets ENV=$env UNPACK=no"
lock
open_sealed "$sealed"

find_cluster
k() { kubectl --namespace "$namespace" "$@"; }

if ! error=$(kubectl get namespace "$namespace" 2>&1 >/dev/null); then
  [[ $error == *NotFound* ]] || die "the namespace $namespace cannot be read" "kubectl says: $error" "next: ask for the right to get and create namespaces"
  # Who may run what in it: the cluster refuses a pod that asks for more than the shop's do.
  printf '%s\n' 'apiVersion: v1' 'kind: Namespace' 'metadata:' "  name: $namespace" '  labels:' \
    '    app.kubernetes.io/part-of: bodega' \
    '    pod-security.kubernetes.io/enforce: restricted' '    pod-security.kubernetes.io/warn: restricted' '    pod-security.kubernetes.io/audit: restricted' |
    kubectl create -f - >/dev/null || die "the namespace $namespace cannot be made" "next: let an administrator make it, then run this again"
  say "namespace $namespace made, with Pod Security restricted"
fi

was=$(k get secret bodega --ignore-not-found -o 'go-template={{with .metadata.annotations}}{{or (index . "bodega.environment") ""}}{{end}}') ||
  die "the Secret bodega in $namespace cannot be read" "next: ask for the right to get, create and patch secrets there"
[ "${was:-$env}" = "$env" ] || [ "${ANYWAY:-}" = yes ] || die "the Secret bodega in $namespace of context $context is that of $was, and not of $env" \
  "Nothing was changed." "next: make secrets-apply ENV=$was; or ANYWAY=yes if that is meant"

# "KEY=hash" of each sealed string; it lies beside the values, so that the next run knows which have changed.
now=$(sealed_strings "$sealed" | while read -r key string; do printf '%s=%s ' "$key" "$(printf '%s' "$string" | sha256 12)"; done)
before=$(k get secret bodega --ignore-not-found -o 'go-template={{with .metadata.annotations}}{{index . "bodega.sealed"}}{{end}}') ||
  die "the Secret bodega in $namespace cannot be read" "next: ask for the right to get, create and patch secrets there"
[[ $before != '<no value>' ]] || before=''

apply() {
  local key name data=''
  for key in "${opened[@]}"; do
    name=value_$key
    data+="  $key: \"$(printf '%s' "${!name}" | openssl base64 -A)\""$'\n' || die "openssl cannot encode $key" "Nothing was applied. next: openssl base64"
  done
  {
    printf '%s\n' 'apiVersion: v1' 'kind: Secret' 'type: Opaque' 'metadata:' '  name: bodega' '  labels:' \
      '    app.kubernetes.io/part-of: bodega' '  annotations:' "    bodega.environment: \"$env\"" "    bodega.sealed: \"$1\"" 'data:'
    printf '%s' "$data"
  } | k apply --server-side --field-manager=bodega -f - >/dev/null || die "the Secret bodega in $namespace was not taken" \
    "A conflict means that another manager owns it (Flux, Argo CD): then that one applies it, not this." "next: see kubectl's message above"
}

changed=$(printf '%s\n' "$before" -- "$now" | tr ' ' '\n' | awk -F = '
  $0 == "--" { rest = 1; next } $0 == "" { next }
  !rest { old[$1] = $2; next }
  { if (old[$1] != $2) print $1; delete old[$1] }
  END { for (key in old) print key }')
# The old hashes stay until everything is restarted: a run that is interrupted in between is made up for by the next.
apply "$before"
say "Secret bodega applied in namespace $namespace of context $context: ${#opened[@]} keys"

if [ -z "$changed" ]; then
  apply "$now"
  say "no value changed: nothing to restart"
  exit 0
fi
# Keys that left the template have no known users: whoever mounts them is restarted by whoever changes that.
users=$(for key in $changed; do users_of "$key"; done | sort -u)
[ -z "$before" ] || say "changed: $(printf '%s' "$changed" | tr '\n' ' ')"

there=$(k get deployments,statefulsets -l app.kubernetes.io/part-of=bodega \
  -o 'go-template={{range .items}}{{.kind}}/{{.metadata.name}} {{index .metadata.labels "app.kubernetes.io/component"}}{{"\n"}}{{end}}')
restarted=''
# restart USER [wait|together]: together ends all pods at once, where those with the old value would refuse one with the new.
restart() {
  local kind component
  while read -r kind component; do
    [ "$component" = "$1" ] || continue
    if [ "${2:-}" = together ]; then
      k delete pods -l "app.kubernetes.io/part-of=bodega,app.kubernetes.io/component=$1" >/dev/null
    else
      k rollout restart "$kind" >/dev/null
    fi
    restarted+="$kind "
    # Servers first, and wholly: a role that has the new password needs a server that knows it.
    [ -z "${2:-}" ] || k rollout status "$kind" --timeout=5m >/dev/null || die "$kind did not become ready in 5 minutes; the roles were not restarted" \
      "next: kubectl --namespace $namespace describe $kind; then run this again"
  done < <(printf '%s\n' "$there")
}
# One server of the bus has no peers, and does not mount their password.
have_peers() { k get statefulsets -l app.kubernetes.io/part-of=bodega,app.kubernetes.io/component=nats -o yaml | grep 'key: NATS_PEER_PASSWORD$' >/dev/null; }
how='wait'
if [[ " $before" == *" NATS_PEER_PASSWORD="* ]] && grep -qx NATS_PEER_PASSWORD <<<"$changed" && have_peers; then
  how=together users+=$'\nnats'
  say "the servers of the bus restart all at once, since one with another peer password finds none: events wait in the outbox meanwhile"
fi
! grep -qx nats <<<"$users" || restart nats $how
! grep -qx objectstore <<<"$users" || restart objectstore wait
for user in $users; do
  case $user in
    nats | nats-peers | objectstore | migrate | postgres) ;;
    *) restart "$user" ;;
  esac
done
apply "$now"

if [ -n "$restarted" ]; then
  say "restarted: $restarted"
elif [ -n "$there" ]; then
  say "nothing of what is in $namespace mounts them: nothing to restart"
else
  say "nothing of the shop runs in $namespace yet: nothing to restart"
fi
if [ -n "$before" ] && grep -qx migrate <<<"$users"; then
  say "next: run the migrate Job again, it makes changed logins (make deploy ENV=$env, with the OVERLAY= of before; with the chart: docs/kubernetes.md); until then the pods that run go on with the old ones"
fi
if grep -qx POSTGRES_PASSWORD <<<"$changed" && [ -n "$before" ]; then
  say "next: the database server reads POSTGRES_PASSWORD only when its volume is empty: alter role postgres password '…' there"
fi

#!/usr/bin/env bash
# deploy.sh ENV [NAMESPACE] [OVERLAY]: brings an overlay of kustomize/overlays into the namespace, and waits until it runs.
. "$(dirname "$0")/kube.sh"
env=$1
namespace=${2:-bodega}
overlay=${3:-$env}
dir=kustomize/overlays/$overlay
[ -f "$dir/kustomization.yaml" ] || die "there is no $dir" \
  "next: make deploy ENV=$env OVERLAY=… with one of: $(cd kustomize/overlays && printf '%s ' */ | tr -d /)"
k() { kubectl --namespace "$namespace" "$@"; }

# What it needs, before anything is changed.
for what in "namespace $namespace" "secret bodega"; do
  # shellcheck disable=SC2086 # two words
  error=$(k get $what 2>&1 >/dev/null) && continue
  [[ $error == *NotFound* ]] || die "the $what cannot be read" "kubectl says: $error" "next: ask for the right to get it"
  die "there is no $what in context $context" "next: make secrets-apply ENV=$env NAMESPACE=$namespace"
done
was=$(k get secret bodega -o 'go-template={{with .metadata.annotations}}{{or (index . "bodega.environment") ""}}{{end}}')
[ "${was:-$env}" = "$env" ] || [ "${ANYWAY:-}" = yes ] || die "the Secret bodega in $namespace of context $context is that of $was, and not of $env" \
  "next: make deploy ENV=$was; or ANYWAY=yes if that is meant"
rendered=$(kubectl kustomize "$dir") || die "$dir cannot be rendered" "next: see kubectl's message above"
if grep -q '^kind: PostgresCluster$' <<<"$rendered" && ! kubectl get --raw /apis/postgres-operator.crunchydata.com/v1 >/dev/null 2>&1; then
  die "the overlay $overlay has a PostgresCluster, and this cluster has no Crunchy PGO 6 to make one" \
    "next: make operator, then this again" "or one PostgreSQL without an operator: make deploy ENV=$env OVERLAY=prod-standalone"
fi
# Only the StatefulSet has its Service's name; a policy is called bodega-postgres in every overlay for production.
if { k get statefulset bodega-postgres && ! grep -q '^  serviceName: bodega-postgres$' <<<"$rendered"; } >/dev/null 2>&1 ||
  { k get postgrescluster bodega-db && ! grep -q '^kind: PostgresCluster$' <<<"$rendered"; } >/dev/null 2>&1; then
  [ "${ANYWAY:-}" = yes ] || die "this shop's data are in a database that the overlay $overlay does not have: it would begin anew on another" \
    "next: the OVERLAY= of before; or, once its data are where the overlay looks for them, ANYWAY=yes"
fi
# With none of these here, the roles that run have theirs elsewhere.
if grep -qE '^  serviceName: bodega-postgres$|^kind: PostgresCluster$' <<<"$rendered" && ! { k get statefulset bodega-postgres || k get postgrescluster bodega-db; } >/dev/null 2>&1; then
  parts=$(k get deployment bodega-orders --ignore-not-found -o 'jsonpath={.spec.template.spec.containers[0].env[?(@.name=="DATABASE_URL")].valueFrom.configMapKeyRef.name}')
  url=${parts:+$(k get configmap "$parts" -o 'jsonpath={.data.DATABASE_URL}')} || die "the ConfigMap $parts cannot be read" "next: ask for the right to get it"
  [[ -z $url || $url == *://bodega-postgres:* || $url == *://bodega-db-* ]] || [ "${ANYWAY:-}" = yes ] ||
    die "this shop's data are at ${url##*@}, and the overlay $overlay has a database of its own: it would begin anew there" \
      "next: the OVERLAY= of before; or, with a backup that comes into it, ANYWAY=yes"
fi

# A Job's template cannot be changed, and one that is done does not run again: what must run again is deleted first. The
# Secrets that it reads are part of it; each change of one gives it another version.
versions() {
  local names
  names=$(k create --dry-run=client -k "$dir" -l "app.kubernetes.io/component=$1" -o 'jsonpath={..secret.name}' | tr ' ' '\n' | sort -u)
  # shellcheck disable=SC2086 # a list
  [ -z "$names" ] || k get secret $names --ignore-not-found --no-headers -o custom-columns=:metadata.name,:metadata.resourceVersion | cksum | tr -d ' '
}
mark=bodega.secrets
again=''
jobs=''
for component in migrate seed; do
  job=$(k create --dry-run=client -k "$dir" -l "app.kubernetes.io/component=$component" -o 'jsonpath={.metadata.name}' 2>/dev/null) || continue
  jobs+="$component $job"$'\n'
  k get job "$job" >/dev/null 2>&1 || continue
  if [ "$(k get job "$job" -o 'jsonpath={.status.conditions[?(@.type=="Failed")].status}')" = True ]; then
    why='it had failed'
  elif error=$(k apply --dry-run=server -k "$dir" -l "app.kubernetes.io/component=$component" 2>&1 >/dev/null); then
    [ "$(k get job "$job" -o "go-template={{with .metadata.annotations}}{{index . \"$mark\"}}{{end}}")" != "$(versions "$component")" ] || continue
    why='its logins or passwords may have changed'
  elif [[ $error == *immutable* ]]; then
    why='its image or settings changed'
  else
    die "the cluster does not take the Job $job" "kubectl says: $error" "next: see there"
  fi
  k delete job "$job" --wait --timeout=60s >/dev/null
  again+="$component runs again: $why"$'\n'
done

say "overlay $overlay into namespace $namespace of context $context"
applied=$(k apply -k "$dir") || die "the cluster did not take all of it" "next: see kubectl's message above, then run this again"
say "$(awk '{count[$2]++} END {for (what in count) printf "%s%d %s", sep, count[what], what, sep = ", "}' <<<"$applied")"
[ -z "$again" ] || printf %s "$again"

seconds=${TIMEOUT:-600}
left() { printf '%s' "$((seconds > SECONDS ? seconds - SECONDS : 1))s"; }
stuck() {
  die "$1 is not ready after $seconds s" "next: kubectl --namespace $namespace describe $1; kubectl --namespace $namespace get pods" \
    "then the same again; it goes on where it stopped (TIMEOUT=1200 for longer)"
}
count=0
ready() {
  local object objects
  objects=$(k get "$1" -l app.kubernetes.io/part-of=bodega -o name)
  for object in $objects; do
    k rollout status "$object" --timeout="$(left)" >/dev/null || stuck "$object"
    count=$((count + 1))
  done
}
ready statefulsets
while read -r component job; do
  [ -n "$job" ] || continue
  until [ "$(k get job "$job" -o 'jsonpath={.status.conditions[?(@.type=="Complete")].status}')" = True ]; do
    [ "$(k get job "$job" -o 'jsonpath={.status.conditions[?(@.type=="Failed")].status}')" != True ] ||
      die "$component failed; the pods that ran before go on" "its last words: $(k logs "job/$job" --tail=1 2>/dev/null || true)" \
        "next: kubectl --namespace $namespace logs job/$job; then the same again"
    [ "$SECONDS" -lt "$seconds" ] || stuck "job/$job"
    sleep 1
  done
  k annotate job "$job" --overwrite "$mark=$(versions "$component")" >/dev/null
done <<<"$jobs"
ready deployments
say "everything runs: $count Deployments and StatefulSets, in $SECONDS s"

#!/usr/bin/env bash
# Installs Crunchy PGO, apart from the shop, the way that its own tree says: by Kustomize, in the namespace
# postgres-operator, for PostgresClusters of all namespaces.
#   PGO_DIR       a checked-out tree of that version, where this machine does not reach GitHub
#   PGO_REGISTRY  registry that holds its images, in place of registry.developers.crunchydata.com
. "$(dirname "$0")/kube.sh"
version=6.0.3
commit=0fbac3062d649b2b5fadde4e00f17bad250c0052
source=https://github.com/CrunchyData/postgres-operator
namespace=postgres-operator

if ! found=$(kubectl get deployments --all-namespaces --field-selector metadata.name=pgo \
  -o 'go-template={{range .items}}{{.metadata.namespace}} {{or (index .metadata.labels "app.kubernetes.io/version") "unknown"}}{{"\n"}}{{end}}' 2>&1); then
  die "the Deployments of this cluster cannot be listed" "kubectl says: $found" "next: let an administrator of the cluster run this"
fi
while read -r where which; do
  [ -n "$where" ] || continue
  [ "$where" = "$namespace" ] || die "an operator runs already, in namespace $where (version $which)" \
    "The shop needs PGO 6. Two operators would fight: upgrade that one as it was installed, or remove it, then run this again."
  [ "$which" != "$version" ] || [ "$(kubectl --namespace "$namespace" get deployment pgo -o 'jsonpath={.status.readyReplicas}')" != 1 ] || {
    say "PGO $version runs already in namespace $where of context $context: nothing to do"
    exit 0
  }
  [ "$which" = "$version" ] || say "PGO $which becomes $version"
done <<<"$found"

registry=${PGO_REGISTRY:-registry.developers.crunchydata.com}
tree=${PGO_DIR:-}
if [ -z "$tree" ]; then
  command -v git >/dev/null || die "git is not installed" "next: install it, or give PGO_DIR=… with the tree of PGO $version"
  tree=$(mktemp -d)
  trap 'rm -rf "$tree"' EXIT
  error=$(GIT_TERMINAL_PROMPT=0 git clone --quiet --depth 1 --branch "v$version" -c advice.detachedHead=false "$source" "$tree" 2>&1) ||
    die "PGO $version cannot be fetched from $source" "git says: $(tail -1 <<<"$error")" \
      "next, without a network: git clone --branch v$version $source elsewhere, bring it here, make operator PGO_DIR=…" \
      "The cluster then needs its images too: copy them to your registry and add PGO_REGISTRY=registry.example.org"
  [ "$(git -C "$tree" rev-parse HEAD)" = "$commit" ] || die "the tag v$version of $source is not the commit $commit" \
    "A tag that moves is no release: look at what happened there before you install it."
fi
grep -qs "app.kubernetes.io/version: $version\$" "$tree/config/default/kustomization.yaml" || die "$tree is not the tree of PGO $version" \
  "Its config/default/kustomization.yaml should name that version." "next: git clone --branch v$version $source, and PGO_DIR=… with its path"

say "PGO $version into namespace $namespace of context $context"
kubectl apply -k "$tree/config/namespace" >/dev/null || die "the namespace $namespace cannot be made" "next: let an administrator of the cluster run this"
# Server-side: the definition of a PostgresCluster is larger than the annotation of a client-side apply may be.
kubectl kustomize "$tree/config/default" | sed "s#registry.developers.crunchydata.com#${registry%/}#" |
  kubectl apply --server-side -f - >/dev/null || die "the cluster did not take PGO" "next: see kubectl's message above, then run this again"
kubectl --namespace "$namespace" rollout status deployment/pgo --timeout="${TIMEOUT:-300}s" >/dev/null 2>&1 || die "the operator does not run yet" \
  "next: kubectl --namespace $namespace describe pods" \
  "Where the cluster cannot pull its image: copy the images to your registry, then make operator PGO_REGISTRY=registry.example.org"
say "PGO $version runs; next: make deploy ENV=prod, or helm install with pgo.enabled=true"

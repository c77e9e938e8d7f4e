# shellcheck shell=bash disable=SC2034,SC2154
# TARGET=cluster: the shop in NAMESPACE (bodega) of the cluster of kubectl's context, however it was put there. What
# parts.sh has for Compose, by labels and by the pod templates of the shop itself.
command -v kubectl >/dev/null || die "kubectl is not installed" "next: kubernetes.io/docs/tasks/tools, then run this again"
namespace=${NAMESPACE:-bodega}
k() { kubectl --namespace "$namespace" "$@"; }
part() { printf 'app.kubernetes.io/part-of=bodega,app.kubernetes.io/component in (%s)' "$1"; }
deployments=$(part "$(printf '%s,' "${roles[@]}")edge")
[ -n "$(k get deployments -l "$deployments" -o name)" ] || die "there is no shop in the namespace $namespace of context $(kubectl config current-context 2>/dev/null)" \
  "next: NAMESPACE=…, or kubectl config use-context …"

# The newest Job of migrate, whose settings and secrets reach the database and the bus; nothing where there is none.
migrate_job() { k get jobs -l "$(part migrate)" --sort-by=.metadata.creationTimestamp -o name | tail -1; }
# worker NAME OBJECT COMPONENT [IMAGE]: a pod with the settings, secrets and place of OBJECT's pods, which sleeps until
# `kubectl exec`. It counts as COMPONENT where policies are asked, and is never ready, so that no Service leads to it.
workers=()
worker() {
  local name=$1 spec=.spec.template.spec container='.spec.template.spec.containers[0]'
  local image="{$container.image}"
  workers+=("$name")
  k delete pod "$name" --ignore-not-found --wait >/dev/null
  k get "$2" -o "jsonpath=apiVersion: v1
kind: Pod
metadata:
  name: $name
  labels:
    app.kubernetes.io/name: bodega
    app.kubernetes.io/part-of: bodega
    app.kubernetes.io/component: $3
    app.kubernetes.io/instance: {.metadata.labels.app\.kubernetes\.io/instance}
spec:
  restartPolicy: Never
  # What an operator who went away leaves ends by itself.
  activeDeadlineSeconds: 14400
  terminationGracePeriodSeconds: 0
  serviceAccountName: {$spec.serviceAccountName}
  automountServiceAccountToken: false
  enableServiceLinks: false
  imagePullSecrets: {$spec.imagePullSecrets}
  nodeSelector: {$spec.nodeSelector}
  tolerations: {$spec.tolerations}
  affinity:
    nodeAffinity: {$spec.affinity.nodeAffinity}
  securityContext: {$spec.securityContext}
  volumes: {$spec.volumes}
  containers:
    - name: work
      image: ${4:-$image}
      command: [sleep, infinity]
      env: {$container.env}
      volumeMounts: {$container.volumeMounts}
      securityContext: {$container.securityContext}
      resources: {$container.resources}
      readinessProbe:
        exec:
          command: [\"false\"]
        periodSeconds: 3600
" | k create -f - >/dev/null
  k wait --for=jsonpath='{.status.phase}'=Running "pod/$name" --timeout=120s >/dev/null 2>&1 ||
    die "the pod $name does not run after 120 s: $(k get pod "$name" -o 'jsonpath={.status.conditions[?(@.type=="PodScheduled")].message} {.status.containerStatuses[0].state.waiting.message}')" \
      "next: kubectl --namespace $namespace get events" ${4:+"or, where the cluster cannot pull $4: the same with POSTGRES_IMAGE=registry.example.org/postgres:18"}
}
finish() { [ ${#workers[@]} -eq 0 ] || k delete pod "${workers[@]}" --ignore-not-found --wait=false >/dev/null; }

prepare() {
  local image migrate
  image=${POSTGRES_IMAGE:-$(k get statefulsets -l "$(part postgres)" -o 'jsonpath={.items[*].spec.template.spec.containers[0].image}')}
  migrate=$(migrate_job)
  [ -n "$migrate" ] || die "there is no migrate Job in $namespace, whose settings reach the database" "next: apply the shop again"
  worker bodega-database "$migrate" migrate "${image:-postgres:18}"
  worker bodega-pictures "$(k get deployments -l "$(part products)" -o name)" products
}
inside() { k exec -i bodega-database -- bash -c "$(cat "scripts/inside/$1.sh")" "$1" "$2"; }
objects() { k exec -i bodega-pictures -- node /app/src/commands.ts "objects-$1"; }

start_servers() {
  local object objects
  objects=$(k get statefulsets -l "$(part postgres,nats,objectstore)" -o name)
  for object in $objects; do
    k rollout status "$object" --timeout=2m >/dev/null || die "$object is not ready" "next: kubectl --namespace $namespace describe $object"
  done
}
# The Job of migrate has run before there was what came back, which may be older, and has the grants of no database.
adopted() {
  worker bodega-migrate "$(migrate_job)" migrate
  k exec bodega-migrate -- node /app/src/main.ts migrate
}
replicas=''
stop_shop() {
  replicas=$(k get deployments -l "$deployments" -o 'jsonpath={range .items[*]}{.metadata.labels.app\.kubernetes\.io/component} {.metadata.name} {.spec.replicas}{"\n"}{end}')
  # An autoscaler leaves alone what has none.
  k scale deployments -l "$deployments" --replicas=0 >/dev/null
  # The workers live under the same labels, so the pods are asked for by their ReplicaSets' one.
  k wait --for=delete pods -l "$deployments,pod-template-hash" --timeout=2m >/dev/null
}
# scale_up LINES: scales Deployments, each a line of component, name and number, and waits for all of them.
scale_up() {
  local name count
  [ -n "$1" ] || return 0
  while read -r _ name count; do k scale deployment "$name" --replicas="$((count > 0 ? count : 1))" >/dev/null; done <<<"$1"
  while read -r _ name count; do k rollout status "deployment/$name" --timeout=3m >/dev/null || return 1; done <<<"$1"
}
# The edge comes last, when it finds the roles; it comes also where one of them fails.
start_shop() {
  local code=0
  scale_up "$(grep -v '^edge ' <<<"$replicas")" || code=1
  scale_up "$(grep '^edge ' <<<"$replicas")" || code=1
  return "$code"
}
hint_logs="kubectl --namespace $namespace get pods"
after_failure() {
  local how='and runs'
  start_shop || how="and does not become ready. next: $hint_logs"
  printf '%s\n' "  The shop has the data from before, $how" >&2
}
hint_empty="in another namespace; or forget what is here, with its volumes: kubectl delete -k … and kubectl --namespace $namespace delete pvc --all"

#!/usr/bin/env bash
# status.sh: the shop on one screen, from this host or from a cluster (TARGET=cluster).
. "$(dirname "$0")/lib.sh"
. scripts/parts.sh
folder=$(setting BODEGA_BACKUPS backups)
say "Bodega $version ($environment)  $(date -u '+%Y-%m-%d %H:%M:%S') UTC"
say
compose_parts() {
  printf '%-14s %-22s %-24s %s\n' service state image since
  for service in $(compose config --services | sort); do
    ids=$(containers -a "$service")
    [ -n "$ids" ] || { printf '%-14s %s\n' "$service" 'not there'; continue; }
    for id in $ids; do
      docker inspect -f '{{.State.Status}}|{{.State.ExitCode}}|{{if .State.Health}}{{.State.Health.Status}}{{end}}|{{.Config.Image}}|{{.Image}}|{{.State.StartedAt}}' "$id"
    done | awk -F'|' -v service="$service" '{
      state = $1 == "exited" ? ($2 == 0 ? "done" : "ended with " $2) : $3 == "" ? $1 : $3
      sub(/^sha256:/, "", $5); n = split($4, part, "/")
      printf "%-14s %-22s %-24s %s\n", service, state, part[n] " " substr($5, 1, 7), substr($6, 1, 19) }'
  done
}
cluster_parts() {
  local shop=app.kubernetes.io/part-of=bodega component='.metadata.labels.app\.kubernetes\.io/component' image='.spec.template.spec.containers[0].image'
  k get deployments,statefulsets -l $shop --sort-by=.metadata.name -o "custom-columns=part:$component,ready:.status.readyReplicas,of:.spec.replicas,image:$image,since:.metadata.creationTimestamp"
  say
  k get jobs -l $shop --sort-by=.metadata.creationTimestamp -o "custom-columns=job:.metadata.name,done:.status.succeeded,image:$image,since:.metadata.creationTimestamp"
}

# figures COMMAND…: events and mails on their way, by a command that runs Node.js with ROLE or ROLE=HOST as arguments.
figures() { printf '%s\n' "$program" | "$@" || say 'figures: no answer'; }
# It ends with 1 at the end of the text, as there is no null in it.
read -r -d '' program <<'END' || true
const hosts = Object.fromEntries(process.argv.slice(2).map((word) => [word.split('=')[0], word.split('=').at(-1)]))
const roles = Object.keys(hosts)
const read = async (role) => {
  try {
    const text = await (await fetch(`http://${hosts[role]}:9090/metrics`, { signal: AbortSignal.timeout(3000) })).text()
    return Object.fromEntries([...text.matchAll(/^([a-z_]+(?:\{[^}]*\})?) (\S+)$/gm)].map(([, name, value]) => [name, Number(value)]))
  } catch {
    return undefined
  }
}
const all = Object.fromEntries(await Promise.all(roles.map(async (role) => [role, await read(role)])))
const outboxes = roles.filter((role) => all[role] && 'outbox_events' in all[role])
if (outboxes.length)
  console.log(`outbox         ${outboxes.map((role) => `${role} ${all[role].outbox_events}${all[role].outbox_events ? ` (oldest ${Math.round(all[role].outbox_oldest_seconds)} s)` : ''}`).join(', ')}`)
const lag = {}
for (const role of roles)
  for (const [name, value] of Object.entries(all[role] ?? {})) {
    const [, consumer, state] = /^bus_consumer_lag\{consumer="([^"]+)",state="([^"]+)"\}/.exec(name) ?? []
    if (consumer) (lag[consumer] ??= {})[state] = value
  }
for (const [consumer, { waiting = 0, in_hand = 0 }] of Object.entries(lag))
  console.log(`${consumer.padEnd(14)} ${waiting} waiting, ${in_hand} in hand`)
const silent = roles.filter((role) => !all[role])
if (silent.length) console.log(`no figures of  ${silent.join(', ')}`)
END
# database COMMAND…: what the inner server says, by a command that runs a program beside it.
database() {
  "$@" psql -X -At -U "$(setting POSTGRES_USER postgres)" -d bodega -c \
    "select 'database       ' || pg_size_pretty(pg_database_size(current_database())) || ', ' || (select count(*) from pg_stat_activity where datname = current_database()) || ' connections'" 2>/dev/null ||
    say 'database       no answer'
  "$@" df -Ph /var/lib/postgresql 2>/dev/null | awk 'NR == 2 { print "its volume     " $4 " free of " $2 }' || true
}

if [ "$target" = cluster ]; then
  cluster_parts
  say
  # Each is asked in a pod of its own: no role may reach the figures of another.
  for role in "${roles[@]}"; do
    pod=$(k get pods -l "$(part "$role"),pod-template-hash" --field-selector=status.phase=Running -o name | awk 'NR == 1')
    if [ -n "$pod" ]; then figures kubectl --namespace "$namespace" exec -i "$pod" -- node - "$role=127.0.0.1"; else say "outbox         no $role runs"; fi
  done
  pod=$(k get pods -l "$(part postgres)" -o name | awk 'NR == 1')
  [ -z "$pod" ] || database kubectl --namespace "$namespace" exec "$pod" --
else
  compose_parts
  say
  # Any role that runs can ask the others for their figures.
  id=$(for service in "${roles[@]}"; do running "$service"; done | awk 'NR == 1')
  if [ -n "$id" ]; then figures docker exec -i "$id" node - "${roles[@]}"; else say 'outbox         no role runs'; fi
  if has postgres && id=$(running postgres) && [ -n "$id" ]; then database docker exec "$id"; fi
fi
newest=$(backups_in "$folder" | awk 'NR == 1')
if [ -n "$newest" ]; then
  age=$((($(date +%s) - $(date -r "$newest" +%s)) / 3600))
  say "last backup    $newest, $(du -h "$newest" | cut -f1), $age h ago$([ "$age" -le 26 ] || echo '  ← older than a day')"
else
  say "last backup    none in $folder (make backup)"
fi

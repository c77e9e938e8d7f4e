#!/usr/bin/env bash
# status.sh: the shop on one screen.
. "$(dirname "$0")/lib.sh"
version=$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)
environment=$(setting BODEGA_ENV dev)
folder=$(setting BODEGA_BACKUPS backups)
say "Bodega $version ($environment)  $(date -u '+%Y-%m-%d %H:%M:%S') UTC"
say
printf '%-14s %-22s %-24s %s\n' service state image since
for service in $(compose config --services | sort); do
  ids=$(compose ps -aq "$service")
  [ -n "$ids" ] || { printf '%-14s %s\n' "$service" 'not there'; continue; }
  for id in $ids; do
    docker inspect -f '{{.State.Status}}|{{.State.ExitCode}}|{{if .State.Health}}{{.State.Health.Status}}{{end}}|{{.Config.Image}}|{{.Image}}|{{.State.StartedAt}}' "$id"
  done | awk -F'|' -v service="$service" '{
    state = $1 == "exited" ? ($2 == 0 ? "done" : "ended with " $2) : $3 == "" ? $1 : $3
    sub(/^sha256:/, "", $5); n = split($4, part, "/")
    printf "%-14s %-22s %-24s %s\n", service, state, part[n] " " substr($5, 1, 7), substr($6, 1, 19) }'
done

say
# Any role that runs can ask the others for their figures.
id=$(for service in "${roles[@]}"; do running "$service"; done | awk 'NR == 1')
if [ -n "$id" ]; then
  docker exec -i "$id" node - <<'END' || say 'figures: no answer'
const read = async (role) => {
  try {
    const text = await (await fetch(`http://${role}:9090/metrics`, { signal: AbortSignal.timeout(3000) })).text()
    return Object.fromEntries([...text.matchAll(/^([a-z_]+(?:\{[^}]*\})?) (\S+)$/gm)].map(([, name, value]) => [name, Number(value)]))
  } catch {
    return undefined
  }
}
const roles = ['auth', 'products', 'orders', 'notifications']
const all = Object.fromEntries(await Promise.all(roles.map(async (role) => [role, await read(role)])))
const outboxes = roles.filter((role) => all[role] && 'outbox_events' in all[role])
console.log(`outbox         ${outboxes.map((role) => `${role} ${all[role].outbox_events}${all[role].outbox_events ? ` (oldest ${Math.round(all[role].outbox_oldest_seconds)} s)` : ''}`).join(', ') || 'no answer'}`)
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
else
  say 'outbox         no role runs'
fi
if has postgres && id=$(running postgres) && [ -n "$id" ]; then
  docker exec "$id" psql -X -At -U "$(setting POSTGRES_USER postgres)" -d bodega -c \
    "select 'database       ' || pg_size_pretty(pg_database_size(current_database())) || ', ' || (select count(*) from pg_stat_activity where datname = current_database()) || ' connections'" 2>/dev/null ||
    say 'database       no answer'
  docker exec "$id" df -Ph /var/lib/postgresql | awk 'NR == 2 { print "its volume     " $4 " free of " $2 }'
fi
newest=$(find "$folder" -maxdepth 1 -name 'bodega-*.tar' 2>/dev/null | sort | tail -1 || true)
if [ -n "$newest" ]; then
  age=$((($(date +%s) - $(date -r "$newest" +%s)) / 3600))
  say "last backup    $newest, $(du -h "$newest" | cut -f1), $age h ago$([ "$age" -le 26 ] || echo '  ← older than a day')"
else
  say "last backup    none in $folder (make backup)"
fi

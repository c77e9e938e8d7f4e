#!/usr/bin/env bash
# dlq.sh [show NUMBER | replay NUMBER|all | drop NUMBER|all]: the dead letters of the shop of this host (TARGET=compose)
# or of a cluster (TARGET=cluster), by the settings and secrets of migrate.
. "$(dirname "$0")/lib.sh"
if [ "$target" = cluster ]; then
  . scripts/cluster.sh
  migrate=$(migrate_job)
  [ -n "$migrate" ] || die "there is no migrate Job in $namespace, whose settings reach the bus" "next: apply the shop again"
  trap finish EXIT
  worker bodega-letters "$migrate" migrate
  k exec -i bodega-letters -- node /app/src/commands.ts dlq "$@"
else
  compose run --rm --no-deps -T --entrypoint node migrate /app/src/commands.ts dlq "$@"
fi

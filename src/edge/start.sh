#!/bin/sh
# What the edge's container runs: renders the configuration into a writable directory, then becomes nginx.
set -eu
dir=${EDGE_DIR:-/tmp/edge}
/bin/sh "$(dirname "$0")/render.sh" "$dir"

# nginx answers 503 for a role whose name is not known, and asks again only seconds later. So that a shop which starts as
# a whole serves from the edge's first moment, the names are given some time: ten seconds, so that one role which is away
# does not keep the others behind a closed door; a minute in a cluster, where nothing starts in an order, and where a new
# edge comes beside the old ones.
known() {
  for upstream in "$AUTH_UPSTREAM" "$PRODUCTS_UPSTREAM" "$ORDERS_UPSTREAM" "$NOTIFICATIONS_UPSTREAM"; do
    getent hosts "${upstream%:*}" >/dev/null || return
  done
}
trap 'exit 0' TERM QUIT INT
tries=20
[ "${EDGE_RESOLVER:-}" != system ] || tries=120
until known || [ "$((tries -= 1))" -lt 0 ]; do sleep 0.5; done

exec nginx -p "$dir" -c nginx.conf -e stderr -g 'daemon off;'

#!/bin/sh
# What the edge's container runs: renders the configuration into a writable directory, then becomes nginx.
set -eu
dir=${EDGE_DIR:-/tmp/edge}
/bin/sh "$(dirname "$0")/render.sh" "$dir"
exec nginx -p "$dir" -c nginx.conf -e stderr -g 'daemon off;'

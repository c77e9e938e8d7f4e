#!/usr/bin/env bash
# unpack.sh [ENV]: fills $BODEGA_SECRETS (default secrets/.plain/ENV) from the sealed file and makes nothing else: for the
# boot of a server whose directory is in RAM. The tree may be read-only.
. "$(dirname "$0")/lib.sh"
environment "${1:-}"
need sops openssl
read_template
[ -f "$sealed" ] || die "$sealed is missing" "next: git pull, or make secrets ENV=$env"
lock
open_sealed "$sealed"
unpack
say "$plain: ${#opened[@]} secrets of $env"

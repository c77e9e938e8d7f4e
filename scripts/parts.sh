# shellcheck shell=bash disable=SC2034,SC2154
# The form of a backup, for backup.sh and restore.sh: a tar of these three, the manifest first. The manifest is lines:
# version, made, environment, identity…, server, migration…, table NAME ROWS SUM…, part NAME BYTES SHA256…, end.
first_line='bodega-backup 1'
manifest_part=manifest database_part=database.dump objects_part=objects.tar
version=$(version_here)

size() { wc -c <"$1" | tr -d ' '; }
sha256() { openssl dgst -sha256 -r "$1" | cut -d' ' -f1; }
# The public halves of the identities that open the secrets which this shop's data rest on; of one on a token, age tells none.
identities() {
  local file=${SOPS_AGE_KEY_FILE:-${XDG_CONFIG_HOME:-${HOME:-/root}/.config}/sops/age/keys.txt}
  [ ! -r "$file" ] || ! command -v age-keygen >/dev/null || age-keygen -y "$file" 2>/dev/null | sed 's/^/identity /' || true
}

# The backups in a folder of a shop like this one, the newest first: several shops may share a folder, which may be a link.
backups_in() {
  local day='[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]' time='[0-9][0-9][0-9][0-9][0-9][0-9]'
  [ ! -d "$1" ] || find -H "$1" -maxdepth 1 -name "$(backup_name)-${day}T${time}Z.tar" | sort -r
}
backup_name() { printf 'bodega-%s' "$environment${shop:+$([ "$shop" = bodega ] || printf '%s' "-$shop")}"; }

# How each target runs what works inside: `inside database COMMAND`, by the server's own programs, and `objects export`
# or `objects import`, the pictures as a tar, by the settings and secrets of the role that serves them; `prepare` before
# and `finish` after; and for a restore how its servers and roles start and stop.
if [ "$target" = cluster ]; then
  # No object of a cluster says reliably which environment its shop is.
  environment=${ENV:-}
  [ -n "$environment" ] || die "which environment is the shop of the cluster?" "Backups are named, kept and refused by it." "next: the same with ENV=prod, or ENV=dev"
  . scripts/cluster.sh
  shop=$namespace
else
  environment=$(setting BODEGA_ENV dev)
  shop=$(setting COMPOSE_PROJECT_NAME bodega)
  prepare() { :; }
  finish() { :; }
  # A container of its own, which goes with the command.
  inside() { compose --profile operate run --rm --no-deps -T "$@"; }
  objects() { compose run --rm --no-deps -T --entrypoint node products /app/src/commands.ts "objects-$1"; }
  start_servers() {
    local service servers=()
    for service in postgres nats objectstore; do ! has "$service" || servers+=("$service"); done
    [ ${#servers[@]} -eq 0 ] || compose up -d --no-deps --wait --wait-timeout 120 "${servers[@]}" || die "the servers do not become healthy" "next: docker compose logs ${servers[*]}"
  }
  # Starting the shop runs migrate.
  adopted() { :; }
  stop_shop() { compose stop edge "${roles[@]}"; }
  start_shop() { compose up -d --wait --wait-timeout 180; }
  after_failure() { printf '%s\n' '  The shop has the data from before; it is stopped. next: docker compose up -d --wait' >&2; }
  hint_logs='docker compose logs postgres'
  hint_empty='on another host; or forget what is here, with docker compose down --volumes'
fi

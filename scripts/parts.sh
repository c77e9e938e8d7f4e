# shellcheck shell=bash disable=SC2034
# The form of a backup, for backup.sh and restore.sh: a tar of these three, the manifest first. The manifest is lines:
# version, made, environment, identity…, server, migration…, table NAME ROWS SUM…, part NAME BYTES SHA256…, end.
first_line='bodega-backup 1'
manifest_part=manifest database_part=database.dump objects_part=objects.tar
environment=$(setting BODEGA_ENV dev)
version=$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)

size() { wc -c <"$1" | tr -d ' '; }
sha256() { openssl dgst -sha256 -r "$1" | cut -d' ' -f1; }
# inside database COMMAND: a container of its own, which goes with the command.
inside() { compose --profile operate run --rm --no-deps -T "$@"; }
# The pictures as a tar, by the settings and secrets of the role that serves them.
objects() { compose run --rm --no-deps -T --entrypoint node products /app/src/commands.ts "objects-$1"; }
# The public halves of the identities that open the secrets which this shop's data rest on.
identities() {
  local file=${SOPS_AGE_KEY_FILE:-${XDG_CONFIG_HOME:-${HOME:-/root}/.config}/sops/age/keys.txt}
  [ ! -r "$file" ] || ! command -v age-keygen >/dev/null || age-keygen -y "$file" 2>/dev/null | sed 's/^/identity /'
}

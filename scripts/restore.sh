#!/usr/bin/env bash
# restore.sh FILE: brings a backup into a shop without data, compares it row by row, and starts the shop. What is wrong
# with the file is found before anything is changed. ANYWAY=yes takes one of another environment or identity.
. "$(dirname "$0")/lib.sh"
. scripts/parts.sh
file=${1:-}
[ -n "$file" ] || die "which backup?" "next: make restore FILE=backups/bodega-….tar"
[ -r "$file" ] || die "$file cannot be read"

# Beside the backup there is room for its size; /tmp may be in memory.
beside=$(dirname "$file")
[ -w "$beside" ] || beside=/tmp
work=$(mktemp -d "${TMPDIR:-$beside}/.bodega-restore.XXXXXX")
stopped=''
leave() {
  local code=$?
  # Each step is done whatever becomes of the others, as where the terminal is gone, and whoever is impatient.
  set +e
  trap '' INT TERM HUP
  rm -rf "$work"
  if [ "$code" != 0 ] && [ "$stopped" = restored ]; then
    say "The restored data are in place, and the shop starts with them." >&2
    start_shop
  elif [ "$code" != 0 ] && [ -n "$stopped" ]; then
    # Best effort: the database may be what failed, and the next restore forgets it too.
    inside database forget </dev/null >/dev/null 2>&1
    after_failure
  fi
  finish
  exit "$code"
}
trap leave EXIT

refuse() { die "$file is refused: $1" "Nothing was changed." "${@:2}"; }
tar -tf "$file" >"$work/list" 2>/dev/null || refuse "it is truncated, or no backup of this shop"
[ "$(cat "$work/list")" = "$(printf '%s\n' "$manifest_part" "$database_part" "$objects_part")" ] || refuse "it is no backup of this shop"
error=$(tar -C "$work" -xf "$file" 2>&1) || refuse "it cannot be unpacked, tar says: $(head -1 <<<"$error")" \
  "next: where it says that no space is left, TMPDIR=… with a folder that has room for the whole; else another backup, this one is damaged"
[ "$(head -1 "$work/$manifest_part")" = "$first_line" ] || refuse "its manifest is of another form"
[ "$(tail -1 "$work/$manifest_part")" = end ] || refuse "its manifest is truncated"
facts() { awk -v key="$1" '$1 == key { $1 = ""; sub(/^ /, ""); print }' "$work/$manifest_part"; }
for part in "$database_part" "$objects_part"; do
  [ "$(facts part | awk -v p="$part" '$1 == p { print $2, $3 }')" = "$(size "$work/$part") $(sha256 "$work/$part")" ] || refuse "$part is damaged: its checksum differs"
done
[ "$(head -c 5 "$work/$database_part")" = PGDMP ] || refuse "$database_part is no dump of a database"
facts migration | while read -r schema migration; do
  [ -f "src/$schema/migrations/$migration" ] || refuse "it was made by version $(facts version), which has the migration $schema/$migration; this is $version" "next: check that version out, restore, then upgrade"
done
if [ "$(setting ANYWAY)" != yes ]; then
  [ "$(facts environment)" = "$environment" ] || refuse "it is of the environment $(facts environment), and this shop is $environment" "next: ANYWAY=yes if that is meant"
  known=$(identities | sed 's/^identity //')
  if [ -n "$(facts identity)" ] && ! facts identity | grep -qxF -- "${known:-none}"; then
    refuse "its secrets open with the identity $(facts identity | tr '\n' ' '), and this host has ${known:-none}" \
      "Codes, sessions and keys in it rest on those secrets." "next: bring that identity and the sealed file back; or ANYWAY=yes, and everyone signs in anew"
  fi
fi

# Only servers are started until here: what runs, and what is in them, is as it was.
start_servers
prepare
there=$(inside database rows </dev/null) || die "the database does not answer" "next: $hint_logs"
[ -z "$there" ] || die "this shop has data: $(printf '%s' "$there" | tr '\n' ',' | sed 's/,/, /g')" "A backup is restored into an empty one. Nothing was changed." \
  "next: $hint_empty"
inside database may-restore </dev/null || die "this database login cannot restore, its reason is above" \
  "A backup is restored into a database of its own, compared, and only then put in place. Nothing was changed." "next: docs/database.md, under Elsewhere"

stopped=yes
stop_shop
inside database restore <"$work/$database_part" >"$work/restored" || die "the database could not be restored"
sorted() { grep -E '^(table|migration) ' "$1" | sort; }
diff <(sorted "$work/$manifest_part") <(sorted "$work/restored") >"$work/differences" ||
  die "the restored database is not the one of the backup:" "$(head -5 "$work/differences")"
objects import <"$work/$objects_part" || die "the pictures could not be restored"
inside database adopt </dev/null || die "the restored database could not be put in its place, the reason is above" "next: end what is connected to the old one, as a pooler is (docs/database.md, under Elsewhere), then run this again"
stopped=restored
adopted || die "restored, but its schema could not be brought up to date" "next: $hint_logs"
start_shop || { stopped=''; die "restored, but the shop does not become healthy" "next: make status"; }
stopped=''
say "$file: restored, $(facts table | awk '{ n += $2 } END { print n + 0 }') rows in $(facts table | wc -l | tr -d ' ') tables compared"

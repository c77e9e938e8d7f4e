#!/usr/bin/env bash
# backup.sh [DIRECTORY]: database, pictures and the fingerprint of the age identity in one file, while the shop goes on.
# DIRECTORY is $BODEGA_BACKUPS or backups/; the newest $BODEGA_BACKUPS_KEEP (14) of this host's are kept, for each shop that shares it.
. "$(dirname "$0")/lib.sh"
. scripts/parts.sh
folder=${1:-$(setting BODEGA_BACKUPS backups)}
keep=$(setting BODEGA_BACKUPS_KEEP 14)
[[ $keep =~ ^[1-9][0-9]*$ ]] || die "BODEGA_BACKUPS_KEEP is $keep, and must be a number from 1"
mkdir -p "$folder" && [ -w "$folder" ] || die "$folder cannot be written" "next: give BODEGA_BACKUPS a directory that can be"
exec 9<"$folder"
if command -v flock >/dev/null && ! flock -n 9; then
  say "another backup into $folder is running: this one waits"
  flock -w 600 9 || die "another backup into $folder has run for 10 minutes; no backup was made" "next: the same again, or another folder"
fi

name=$(backup_name)-$(date -u +%Y%m%dT%H%M%SZ)
work=$folder/.new
rm -rf "$work"
trap 'rm -rf "$work"; finish' EXIT
mkdir "$work"
prepare

# The database first: a picture stays for a day after it was replaced, so every one that the dump names is still there.
inside database dump </dev/null | {
  while read -r line && [ "$line" != dump ]; do printf '%s\n' "$line"; done >"$work/facts"
  cat >"$work/$database_part"
} || die "the database could not be dumped; no backup was made" "next: make status"
# A dump that came through a cut connection is found now, and not at the restore.
inside database read <"$work/$database_part" || die "the dump cannot be read back; no backup was made" "next: run this again"
objects export </dev/null >"$work/$objects_part" || die "the pictures could not be read; no backup was made" "next: make status"

{
  printf '%s\n' "$first_line" "version $version" "made $(date -u +%Y-%m-%dT%H:%M:%SZ)" "environment $environment"
  identities
  cat "$work/facts"
  for part in "$database_part" "$objects_part"; do
    sum=$(sha256 "$work/$part") || die "openssl makes no checksum; no backup was made" "next: install openssl, then run this again"
    printf 'part %s %s %s\n' "$part" "$(size "$work/$part")" "$sum"
  done
  printf 'end\n'
} >"$work/$manifest_part"
tar -C "$work" -cf "$work/whole" "$manifest_part" "$database_part" "$objects_part" || die "$folder is full; no backup was made"
sync "$work/whole"
mv "$work/whole" "$folder/$name.tar"

backups_in "$folder" | tail -n "+$((keep + 1))" | while read -r old; do rm -f "$old"; done
say "$folder/$name.tar: $(size "$folder/$name.tar") bytes, $(awk '$1 == "table" { n += $3 } END { print n + 0 }' "$work/$manifest_part") rows"

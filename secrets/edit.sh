#!/usr/bin/env bash
# edit.sh [ENV]: opens the sealed file in $SOPS_EDITOR or $EDITOR, seals it again and unpacks it if this host runs ENV.
. "$(dirname "$0")/lib.sh"
environment "${1:-}"
need sops openssl
read_template
lock
[ -f "$sealed" ] || die "$sealed is missing" "next: make secrets ENV=$env"
open_sealed "$sealed"
draft_sealed

# The editor needs a file in the clear: in RAM where there is such a place, for this user only, gone when the editor is.
ram=/dev/shm
[ -d $ram ] && [ -w $ram ] || ram=${XDG_RUNTIME_DIR:-${TMPDIR:-/tmp}}
for left in "$ram/bodega-edit.$(id -u)."*; do
  [ ! -O "$left" ] || kill -0 "${left##*.}" 2>/dev/null || rm -rf "$left"
done
desk=$ram/bodega-edit.$(id -u).$$
scratch "$desk"
mkdir "$desk"

code=0
TMPDIR=$desk sops edit --input-type yaml --output-type yaml "$draft" || code=$?
if [ $code -eq 200 ]; then
  say "$sealed: not changed"
  exit 0
fi
[ $code -eq 0 ] || die "the editor or sops ended with an error ($code); $sealed is as it was" "next: make secrets-edit ENV=$env"
open_sealed "$draft"
for key in "${t_key[@]}"; do
  is_open "$key" || note "$key is gone; next: make secrets ENV=$env makes a new one"
done
before=$(sealed_strings "$sealed")
publish_sealed
finish_change "$before"

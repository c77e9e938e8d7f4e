#!/usr/bin/env bash
# pin.sh [REGISTRY]: writes the digest that a registry has now into every image reference of compose/, kustomize/ and
# helm/. With REGISTRY (registry.example.org/shop) all images come from there, the shop's own too; without it each
# server's image from where it is named. What a registry does not have, or does not say, stays as it is: none is invented.
. "$(dirname "$0")/lib.sh"
registry=${1:-} registry=${registry%/}
version=$(setting BODEGA_VERSION "$(version_here)")
values=helm/bodega/values.yaml
files=(compose/*.yaml)
while IFS= read -r file; do files+=("$file"); done < <(find kustomize -name '*.yaml')
missing=0

# Sets digest; of the list of all platforms where there is one.
ask() {
  digest=$(docker buildx imagetools inspect "$1" 2>/dev/null | awk '$1 == "Digest:" && !seen++ { print $2 }') && [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] && return
  missing=$((missing + 1))
  say "left as it is: no registry answers for $1"
  return 1
}
# sed with | between its parts: edit SCRIPT FILE…, in place; only files that differ are written.
edit() {
  local script=$1 file
  shift
  for file; do
    sed -E "$script" "$file" >"$file.new"
    if cmp -s "$file.new" "$file"; then rm "$file.new"; else cat "$file.new" >"$file" && rm "$file.new"; fi
  done
}
pattern() { printf '%s' "$1" | sed 's/[.+]/\\&/g'; }
# A name without the registry in it: the one that an earlier run has written, or the one of its origin.
bare() {
  local name=${1#"$registry/"}
  case ${name%%/*} in "$name") printf %s "$name" ;; *.* | *:* | localhost) printf %s "${name#*/}" ;; *) printf %s "$name" ;; esac
}

while read -r name tag; do
  [ -n "$name" ] || continue
  wanted=${registry:+$registry/$(bare "$name")} wanted=${wanted:-$name}
  ask "$wanted:$tag" || continue
  old=$(pattern "$name")
  edit "s|([ \"-])$old:$(pattern "$tag")(@sha256:[0-9a-f]{64})?|\\1$wanted:$tag@$digest|g" "${files[@]}"
  edit "s|repository: \"?$old\"?, tag: (\"?)$(pattern "$tag")\"?, digest: \"[^\"]*\"|repository: $wanted, tag: \\1$tag\\1, digest: \"$digest\"|" "$values"
  say "$wanted:$tag@$digest"
done < <(sed -nE 's/.*\{ repository: "?([^",]+)"?, tag: "?([^",]+)"?, digest: .*/\1 \2/p' "$values" | sort -u)

for name in bodega-app bodega-edge; do
  [ -n "$registry" ] || { say "left as it is: $name is built here; from a registry: make pin REGISTRY=…"; continue; }
  ask "$registry/$name:$version" || continue
  edit "s|\{ name: $name, (newName: [^ ,]+, )?newTag: [^ ,}]+(, digest: [^ ,}]+)? \}|{ name: $name, newName: $registry/$name, newTag: $version, digest: \"$digest\" }|" "${files[@]}"
  awk -v name="$name" -v to="$registry/$name" -v digest="$digest" '
    $1 == "repository:" { mine = $2 == name || substr($2, length($2) - length(name)) == "/" name; if (mine) sub(/repository: .*/, "repository: " to) }
    mine && $1 == "digest:" { sub(/digest: .*/, "digest: \"" digest "\""); mine = 0 }
    { print }' "$values" >"$values.new"
  cat "$values.new" >"$values" && rm "$values.new"
  say "$registry/$name:$version@$digest"
done
# On one host the tag of the shop's own images moves: that is how make rollback goes back.
[ -z "$registry" ] || say "next: git diff; on a host that runs Compose: BODEGA_REGISTRY=$registry/ in .env"
[ "$missing" = 0 ] || die "$missing of the images are not pinned, see above" "next: docker login where one is needed, or push them, then run this again"

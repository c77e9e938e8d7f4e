#!/usr/bin/env bash
# upgrade.sh [back]: takes the images of this checkout (built here, pulled where BODEGA_REGISTRY is set, or loaded
# already where they came in a bundle) into the running shop: migrate first, then role by role, old and new side by side.
# back: to the images from before.
. "$(dirname "$0")/lib.sh"
registry=$(setting BODEGA_REGISTRY)
version=$(setting BODEGA_VERSION "$(version_here)")
app=${registry}bodega-app edge=${registry}bodega-edge previous=$version-previous

# The image that a running container was made from, whatever its tag means by now.
image_of() {
  local id
  id=$(running "$1" | awk 'NR == 1')
  [ -z "$id" ] || docker inspect -f '{{.Image}}' "$id"
}

# Nothing where there is no such image yet.
id_of() { docker image inspect -f '{{.Id}}' "$1" 2>/dev/null || true; }
# Whether an upgrade to this version has stopped half-way: something runs the image from before it, which is not the one
# that this version's tag means. What is kept as the way back then stays.
unfinished() {
  local service image before container
  for service in "${roles[@]}" edge; do
    image=$app
    [ "$service" != edge ] || image=$edge
    before=$(id_of "$image:$previous")
    [ -n "$before" ] && [ "$before" != "$(id_of "$image:$version")" ] || continue
    for container in $(running "$service"); do
      [ "$(docker inspect -f '{{.Image}}' "$container")" != "$before" ] || return 0
    done
  done
  return 1
}

if [ "${1:-}" = back ]; then
  docker image inspect "$app:$previous" "$edge:$previous" >/dev/null 2>&1 || die "there is no previous image here" "make upgrade keeps the one it replaces."
  for image in "$app" "$edge"; do
    # Those of a bundle have no other name, and the next upgrade takes them again.
    [ ! -f .bundle ] || [ "$(id_of "$image:$version")" = "$(id_of "$image:$previous")" ] || docker tag "$image:$version" "$image:$version-bundled"
    docker tag "$image:$previous" "$image:$version"
  done
  # Older code runs on a newer schema: a migration only adds, and what it makes superfluous goes a version later.
  exec bash scripts/roll.sh
fi

was_app=$(image_of orders)
was_edge=$(image_of edge)
[ -n "$was_app" ] && [ -n "$was_edge" ] || die "the shop does not run here" "next: docker compose up -d --wait"
# Asked before the tags move.
keep=''
! unfinished || keep=yes
if [ -n "$registry" ]; then
  compose pull migrate edge || die "the images of $version cannot be pulled from $registry" "Nothing was changed."
elif [ -f .bundle ]; then
  docker image inspect "$app:$version" "$edge:$version" >/dev/null 2>&1 || die "the images of $version are not here" "next: make unbundle FILE=bodega-….tar again, into another folder"
  for image in "$app" "$edge"; do
    [ -n "$(id_of "$image:$version-bundled")" ] || continue
    [ "$(id_of "$image:$version")" != "$(id_of "$image:$previous")" ] || docker tag "$image:$version-bundled" "$image:$version"
    docker rmi "$image:$version-bundled" >/dev/null
  done
else
  docker compose build || die "the images cannot be built" "Nothing was changed."
fi
if [ -z "$keep" ] && [ "$was_app $was_edge" != "$(docker image inspect -f '{{.Id}}' "$app:$version" "$edge:$version" | paste -sd ' ' -)" ]; then
  docker tag "$was_app" "$app:$previous"
  docker tag "$was_edge" "$edge:$previous"
fi
bash scripts/roll.sh
say "this shop runs $version; the way back: make rollback"

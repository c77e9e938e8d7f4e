#!/usr/bin/env bash
# bundle.sh [ENV]: one archive for a machine without a network: every image of the form that .env and ENV choose, and the
# checkout as it is committed, less sealed secrets. unbundle.sh, which is in it, takes it apart. FOLDER= is where it goes.
. "$(dirname "$0")/lib.sh"
environment=${1:-$(setting BODEGA_ENV dev)}
[ -f "compose/compose.$environment.yaml" ] || die "there is no form '$environment'" "next: make bundle ENV=dev or ENV=prod"
for tool in git gzip sha256sum; do command -v "$tool" >/dev/null || die "$tool is not installed" "No bundle was made."; done
folder=${FOLDER:-.}
mkdir -p "$folder" && [ -w "$folder" ] || die "$folder cannot be written" "next: give FOLDER a directory that can be"
git rev-parse --verify -q HEAD >/dev/null 2>&1 || die "this is no git checkout" "What goes into a bundle is what is committed. next: run this in your clone"
[ -z "$(git status --porcelain -- . ':!.sops.yaml' ':!secrets/*/*')" ] ||
  die "this checkout has changes that are not committed" "The images would have them and the files of the bundle not." "next: git status, then commit or git stash -u"

version=$(version_here)
registry=$(setting BODEGA_REGISTRY)
# Compose leaves COMPOSE_PROFILES alone where a profile is given.
profiles=$(setting COMPOSE_PROFILES)
# What a form refuses to go without plays no part in which images it takes.
form() {
  BODEGA_ENV=$environment BODEGA_REGISTRY=$1 PUBLIC_URL=- MAIL_FROM=- COMPOSE_PROFILES=operate${profiles:+,$profiles} docker compose "${@:2}"
}
images=$(form '' config --images | sort -u) || die "the compose files cannot be used as .env sets them" "next: docker compose config"
[[ $images != *@* ]] || die "these images are pinned: $(printf '%s' "$images" | grep @ | paste -sd ' ' -)" "A digest is a registry's, and goes with it. next: make the bundle from a checkout before make pin"
if [ -z "$registry" ]; then
  form '' --progress quiet build || die "the images cannot be built" "No bundle was made."
fi
for image in $images; do
  if [ -n "$registry" ] && [[ $image == bodega-* ]]; then
    docker pull -q "$registry$image" || die "$registry$image cannot be pulled" "No bundle was made."
    docker tag "$registry$image" "$image"
  fi
  docker image inspect "$image" >/dev/null 2>&1 || docker pull -q "$image" || die "$image is not here and cannot be pulled" "No bundle was made."
done

name=bodega-$version-$environment
work=$folder/.new.$name
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir "$work"
cp scripts/unbundle.sh "$work/"
git archive --format tar -o "$work/tree.tar" HEAD -- . ':(exclude,glob)secrets/*/**'
# shellcheck disable=SC2086 # names of images have no spaces
docker save $images | gzip -1 >"$work/images.tar.gz" || die "the images cannot be written; is $folder full?" "No bundle was made."
{
  printf '%s\n' 'bodega-bundle 1' "version $version" "revision $(git rev-parse HEAD)" "environment $environment"
  # shellcheck disable=SC2086
  docker image inspect -f 'platform {{.Os}}/{{.Architecture}}' $images | sort -u
  for image in $images; do printf 'image %s\n' "$image"; done
  for part in unbundle.sh tree.tar images.tar.gz; do printf 'part %s %s\n' "$part" "$(sha256sum <"$work/$part" | cut -d' ' -f1)"; done
} >"$work/manifest"
printf 'end %s\n' "$(sha256sum <"$work/manifest" | cut -d' ' -f1)" >>"$work/manifest"
[ "$(grep -c '^platform ' "$work/manifest")" = 1 ] || die "the images are not all of one platform: $(sed -n 's/^platform //p' "$work/manifest" | paste -sd ' ' -)" "next: docker pull --platform the odd ones"
tar -C "$work" -cf "$work/whole" manifest unbundle.sh tree.tar images.tar.gz || die "$folder is full; no bundle was made"
mv "$work/whole" "$folder/$name.tar"
say "$folder/$name.tar: $(du -h "$folder/$name.tar" | cut -f1), $(wc -w <<<"$images") images, SHA-256 $(sha256sum "$folder/$name.tar" | cut -d' ' -f1)"
say "next, over there: tar -xOf $name.tar unbundle.sh | sh -s $name.tar"

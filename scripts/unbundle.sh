#!/bin/sh
# unbundle.sh FILE [FOLDER]: what `make bundle` put together becomes FOLDER (bodega-VERSION), and its images go into this
# machine's Docker; with REGISTRY=registry.example.org/shop into that registry too; without Docker into containerd, for
# the kubelet. Needs no checkout, only tar, gzip, sha256sum, and docker or ctr:
#   tar -xOf FILE unbundle.sh | sh -s FILE
set -eu
export LC_ALL=C
say() { printf '%s\n' "$*"; }
die() {
  printf 'unbundle: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}
file=${1:-}
[ -n "$file" ] || die "which bundle?" "next: make unbundle FILE=bodega-….tar"
[ -r "$file" ] || die "$file cannot be read"
for tool in tar gzip sha256sum; do command -v "$tool" >/dev/null || die "$tool is not installed"; done

refuse() { die "$file is refused: $1" "Nothing was changed. next: bring it over again, and compare its sha256sum with what make bundle said"; }
part() { tar -xOf "$file" "$1"; }
sum() { sha256sum | cut -d' ' -f1; }
list=$(tar -tf "$file" 2>/dev/null) || refuse 'it is truncated, or no archive'
[ "$(printf '%s\n' "$list" | head -1)" = manifest ] || refuse 'it is no bundle of this shop'
manifest=$(part manifest)
facts() { printf '%s\n' "$manifest" | sed -n "s/^$1 //p"; }
[ "$(printf '%s\n' "$manifest" | head -1)" = 'bodega-bundle 1' ] || refuse 'its manifest is of another form'
[ "$(facts end)" = "$(printf '%s\n' "$manifest" | sed '/^end /,$d' | sum)" ] || refuse 'its manifest is damaged'
[ "$list" = "$(printf 'manifest\n%s' "$(facts part | cut -d' ' -f1)")" ] || refuse "it does not hold what its manifest says"
facts part | while read -r name expected; do
  [ "$(part "$name" | sum)" = "$expected" ] || refuse "$name is damaged: its checksum differs"
done

version=$(facts version)
folder=${2:-bodega-$version}
[ ! -e "$folder" ] || [ -z "$(ls -A "$folder")" ] || die "$folder exists" "Nothing was changed. next: name another folder: FOLDER=…"
platform=$(facts platform)
if docker info >/dev/null 2>&1; then
  here=$(docker version -f '{{.Server.Os}}/{{.Server.Arch}}')
  [ "$here" = "$platform" ] || [ -n "${REGISTRY:-}" ] || die "these images are for $platform, and the Docker here runs $here" "Nothing was changed. next: make bundle on a machine of that kind"
  load() { docker load -q; }
elif [ -z "${REGISTRY:-}" ] && ctr version >/dev/null 2>&1; then
  # Where the kubelet looks.
  load() { ctr -n k8s.io images import -; }
else
  die "neither Docker nor containerd (ctr) answers here" "Nothing was changed. next: start it, or run this as a user who may use it"
fi
part images.tar.gz | gzip -d | load || die "the images could not be loaded" "next: make room, then run this again"
if [ -n "${REGISTRY:-}" ]; then
  registry=${REGISTRY%/}
  for image in $(facts image); do
    # Its own registry, where it names one, gives way to yours.
    case ${image%%/*} in "$image") path=$image ;; *.* | *:* | localhost) path=${image#*/} ;; *) path=$image ;; esac
    docker tag "$image" "$registry/$path"
    docker push -q "$registry/$path" || die "$registry/$path could not be pushed" "next: docker login ${registry%%/*}, then run this again"
  done
fi
mkdir -p "$folder"
part tree.tar | tar -C "$folder" -xf -
# By this, make upgrade knows that the images are here already.
printf '%s\n' "$manifest" >"$folder/.bundle"

environment=$(facts environment)
say "Bodega $version ($(facts revision | cut -c1-12)) is in $folder, its images are loaded"
if [ -n "${REGISTRY:-}" ]; then
  say "next: cd $folder && make pin REGISTRY=$registry, which names it and the digests in every target"
else
  say "next: cd $folder && make secrets ENV=$environment && docker compose up -d --wait"
  say "  or, in a cluster whose nodes have the images: make secrets ENV=$environment UNPACK=no && make secrets-apply ENV=$environment, then docs/air-gap.md"
fi

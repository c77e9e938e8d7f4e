# shellcheck shell=bash
# What the commands beside this file share. They act on the shop that `docker compose` runs from this folder, or on one in
# a cluster where they say so (TARGET=cluster).
set -euo pipefail
umask 077
export LC_ALL=C
# The tar of a Mac puts ._NAME beside each file that has attributes, and such a backup or bundle would be refused elsewhere.
export COPYFILE_DISABLE=1
# With one, cd leads elsewhere, or says where it went.
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/shared.sh
# docker and kubectl take Ctrl-C for an answer of their own, after which a script goes on; and where its terminal closes, one
# without a trap ends as it stands.
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# shellcheck disable=SC2034 # read by the commands
roles=(auth products orders notifications)
command_name=$(basename "$0" .sh)
version_here() { sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json; }

target=${TARGET:-compose}
case $target in
  compose) command -v docker >/dev/null || die "docker is not installed" "next: docs.docker.com/engine/install, then run this again" ;;
  cluster) ;;
  *) die "TARGET is $target, and must be compose or cluster" ;;
esac
compose() { docker compose --progress quiet "$@"; }

# What a variable is for Compose: the environment first, then .env.
setting() {
  local value=${!1:-}
  if [ -z "$value" ]; then
    value=$(from_dotenv "$1")
    [[ $value != *'$'* && $value != '~'* ]] || die "$1 is $value in .env, which only a shell would read as you mean it" "next: write it out there"
  fi
  printf '%s' "${value:-${2:-}}"
}

services=''
# Whether this host's form has the service; parts that run elsewhere are not services here.
has() {
  [ -n "$services" ] || services=$(compose config --services) || die "the compose files cannot be used as .env sets them" "next: docker compose config"
  grep -qx "$1" <<<"$services"
}
# containers [OPTION…] [SERVICE]: as `docker compose ps` chooses them, but for those of `docker compose run`: they are of a
# command that is under way, and no replicas.
containers() {
  compose ps --no-trunc --format '{{.ID}} {{.Label "com.docker.compose.oneoff"}}' "$@" | awk '$2 != "True" { print $1 }'
}
running() { containers --status running "$1"; }

# healthy SECONDS ID…: waits until each container is; fails at once where one that is not has ended, or begins a third time.
healthy() {
  local end=$((SECONDS + $1)) id restarts state
  shift
  for id; do
    while :; do
      read -r restarts state < <(docker inspect -f '{{.RestartCount}} {{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$id")
      case $state in
        'running healthy') break ;;
        exited* | dead*) return 1 ;;
      esac
      [ "$restarts" -lt 2 ] || return 1
      [ "$SECONDS" -lt "$end" ] || return 1
      sleep 0.2
    done
  done
}

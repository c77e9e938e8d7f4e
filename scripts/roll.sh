#!/usr/bin/env bash
# roll.sh [SERVICE…]: brings what runs to what images, settings and secrets say now; without SERVICE, whatever differs.
# A role gets new replicas beside its old ones, which leave when the new are healthy, so no request fails. Servers and the
# edge are replaced in place. Safe to run again after an interruption.
. "$(dirname "$0")/lib.sh"
wait_seconds=120

hashes=$(compose config --hash '*') || die "the compose files cannot be used as .env sets them" "next: docker compose config"
# Lines of service, container, whether it runs, and whether it is what files and image say now.
look() {
  containers -a | while read -r id; do
    read -r service state hash image name < <(docker inspect -f '{{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} {{index .Config.Labels "com.docker.compose.config-hash"}} {{.Image}} {{.Config.Image}}' "$id")
    if grep -qx "$service $hash" <<<"$hashes" && [ "$image" = "$(docker image inspect -f '{{.Id}}' "$name" 2>/dev/null)" ]; then
      printf '%s %s %s current\n' "$service" "$id" "$state"
    else
      printf '%s %s %s stale\n' "$service" "$id" "$state"
    fi
  done
}
# pick SERVICE current|stale [running]: those that run, or that end again and again and are started anew.
pick() { awk -v s="$1" -v c="$2" -v only="${3:-}" '$1 == s && $4 == c && ($3 == "running" || ($3 == "restarting" && !only)) { print $2 }' <<<"$found"; }

roll_role() {
  local service=$1 id ids old new ended made=() want
  IFS=$'\n' read -r -d '' -a old < <(pick "$service" stale; printf '\0')
  # Those that an interrupted run left have to become healthy below as well, or go.
  IFS=$'\n' read -r -d '' -a new < <(pick "$service" current running; printf '\0')
  if [ ${#old[@]} -eq 0 ]; then
    [ "$2" = named ] || return 0
    # Asked for by name: as it is now, but new.
    IFS=$'\n' read -r -d '' -a old < <(pick "$service" current; printf '\0')
    new=()
    if [ ${#old[@]} -eq 0 ]; then
      compose up -d --no-deps --wait --wait-timeout $wait_seconds "$service" || die "$service does not become healthy" "next: docker compose logs $service"
      say "$service: started"
      return
    fi
  fi
  # What ended, as an interrupted run leaves its old ones, would be counted for a replica and started as it was.
  ended=$(awk -v s="$service" '$1 == s && $3 ~ /^(created|exited|dead)$/ { print $2 }' <<<"$found")
  # shellcheck disable=SC2086 # a list
  [ -z "$ended" ] || docker rm -f $ended >/dev/null
  want=$((${#old[@]} > ${#new[@]} ? ${#old[@]} : ${#new[@]}))
  say "$service: $((want - ${#new[@]})) new beside ${#old[@]} old"
  compose up -d --no-deps --no-recreate --scale "$service=$((${#old[@]} + want))" "$service"
  ids=$(containers -a "$service")
  for id in $ids; do
    [[ " ${old[*]} " == *" $id "* ]] || made+=("$id")
  done
  if ! healthy $wait_seconds "${made[@]}"; then
    # It may be gone already, and what is said below counts.
    docker logs --tail 20 "${made[0]}" >&2 || true
    docker rm -f "${made[@]}" >/dev/null
    die "the new $service does not become healthy, see its last words above; the old one goes on" "next: correct it and run this again, or make rollback"
  fi
  docker stop "${old[@]}" >/dev/null
  docker rm "${old[@]}" >/dev/null
  say "$service: the old left"
}

in_place() {
  compose up -d --no-deps --wait --wait-timeout $wait_seconds ${2:+--force-recreate} "$1" || die "$1 does not become healthy" "next: docker compose logs $1"
  say "$1: replaced"
}

roll_migrate() {
  local id code
  compose up -d --no-deps ${1:+--force-recreate} migrate
  id=$(containers -a migrate)
  # It tries a few times while the servers come back.
  until code=$(docker wait "$id") || die "migrate is gone; nothing else was replaced" "next: where another make roll runs, wait for it; then run this again" &&
    [ "$(docker inspect -f '{{.State.Status}}' "$id")" = exited ]; do :; done
  [ "$code" = 0 ] || die "migrate failed; nothing else was replaced" "next: docker compose logs migrate"
  say "migrate: done"
}

# A shop that does not run has nothing to roll.
found=$(look)
[ -n "$found" ] || die "the shop does not run here" "next: docker compose up -d --wait"

named=" $* "
asked() { if [ "$named" = "  " ]; then [ -n "$(pick "$1" stale)" ]; else [[ $named == *" $1 "* ]]; fi; }
how=$([ $# -gt 0 ] && echo named || echo stale)
for service; do has "$service" || die "there is no service $service here" "there are: $(printf '%s' "$services" | tr '\n' ' ')"; done

if has postgres && asked postgres; then
  if [ "$how" = named ]; then
    in_place postgres force
  else
    say "postgres: differs and is left alone, since its restart is seen; next, at a quiet hour: make roll SERVICE=postgres"
  fi
fi
# The bus reads its users from a file of this checkout, which Compose does not compare.
if [ "$how" = stale ] && has nats && id=$(pick nats current running) && [ -n "$id" ] &&
  ! docker exec "$id" cat /etc/bodega/nats.conf | cmp -s - src/platform/nats.conf; then
  in_place nats force
fi
for service in nats objectstore mail; do
  ! has "$service" || ! asked "$service" || in_place "$service" "$([ "$how" = stale ] || echo force)"
done
if [[ $named == *' migrate '* ]]; then
  roll_migrate force
elif [ "$how" = stale ]; then
  # One that failed or was interrupted runs again, also where nothing differs.
  id=$(awk '$1 == "migrate" && $3 == "exited" && $4 == "current" { print $2 }' <<<"$found")
  [ -n "$id" ] && [ "$(docker inspect -f '{{.State.ExitCode}}' "$id")" = 0 ] || roll_migrate
fi
for service in "${roles[@]}"; do ! asked "$service" || roll_role "$service" "$how"; done
if asked edge; then
  say "edge: being replaced, its port is closed for about a second"
  in_place edge "$([ "$how" = stale ] || echo force)"
fi
if [ "$how" = stale ]; then
  looping=$(look | awk '$3 == "restarting" && !seen[$1]++ { print $1 }' | paste -sd ' ' -)
  [ -z "$looping" ] || die "everything is current, and these end again and again: $looping" "next: docker compose logs $looping; correct it and run this again, or make rollback"
fi
say "everything that was asked for is current"

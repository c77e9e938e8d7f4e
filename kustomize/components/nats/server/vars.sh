# shellcheck shell=sh
# Writes nats.vars, which nats.conf includes, from the mounted passwords; with PEERS, also how the servers form one bus.
set -eu
umask 077
cd /secrets
{
  for key in *_NATS_PASSWORD; do printf '%s: "%s"\n' "$key" "$(cat "$key")"; done
  if [ -n "${PEERS:-}" ]; then
    peer=$(cat NATS_PEER_PASSWORD)
    printf 'cluster {\n  name: bodega\n  listen: "0.0.0.0:6222"\n  authorization { user: peer, password: "%s", timeout: 5 }\n  routes: [\n' "$peer"
    for host in $PEERS; do printf '    "nats-route://peer:%s@%s:6222"\n' "$peer" "$host"; done
    printf '  ]\n}\n'
    # A server that is told to stop sends its clients to the others, over 30 s, the least that it knows.
    printf 'lame_duck_grace_period: "2s"\nlame_duck_duration: "30s"\n'
  fi
} >/etc/bodega/nats.vars

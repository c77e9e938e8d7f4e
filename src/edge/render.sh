#!/bin/sh
# Writes OUT_DIR/nginx.conf from this folder and the environment; every path that nginx writes to is inside OUT_DIR.
# Usage: render.sh OUT_DIR. The same script serves the image, the demo and the tests.
set -eu

out=${1:?usage: render.sh OUT_DIR}
source=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out/tmp" "$out/cache" "$out/access"
cp "$source/routes.conf" "$source/problems.conf" "$out/"
cp "$source/access/"*.conf "$out/access/"

# All faults are said before it ends for them.
faulty=''
fault() { printf 'edge: %s\n' "$*" >&2; faulty=yes; }

# upstream NAME ADDRESS: the address is fixed, or looked up again as its DNS record changes where EDGE_RESOLVER is set.
upstream() {
  [ -n "$2" ] || fault "$(printf %s "$1" | tr '[:lower:]' '[:upper:]')_UPSTREAM is missing: host:port of the role $1. Example: $1:3000"
  # A replica that breaks connections is left alone for as long as its DNS record may outlive it. Three of them: after a
  # single one, a replica that only hiccups would leave a request whose other replica has just gone with none at all.
  # More than 256 at once in a replica, of one thread each, only wait for one another: they are refused here, at once and
  # cheaply, with 503 and Retry-After.
  printf 'upstream %s { zone %s 128k; server %s%s max_conns=256 max_fails=3 fail_timeout=2s; keepalive 64; keepalive_requests 100000; }\n' \
    "$1" "$1" "$2" "${EDGE_RESOLVER:+ resolve}"
}

# `system`: the name server of this machine. nginx knows no search domains, so short names get the first one here.
domain='' ipv6=off
if [ "${EDGE_RESOLVER:-}" = system ]; then
  EDGE_RESOLVER=$(awk '$1 == "nameserver" { print $2; exit }' /etc/resolv.conf)
  [ -n "$EDGE_RESOLVER" ] || fault 'EDGE_RESOLVER is system, and /etc/resolv.conf names no server'
  domain=$(awk '$1 == "search" { print $2; exit }' /etc/resolv.conf)
  case $EDGE_RESOLVER in *:*) EDGE_RESOLVER="[$EDGE_RESOLVER]" ipv6=on ;; esac
fi
# full HOST:PORT
full() { case ${1%:*} in '' | *.* | *:*) printf %s "$1" ;; *) printf %s "${1%:*}${domain:+.$domain}:${1##*:}" ;; esac; }

case ${PRODUCT_READ:=public} in public | user) ;; *) fault "PRODUCT_READ is $PRODUCT_READ, and must be public or user" ;; esac

{
  # A name server that did not answer is asked again after resolver_timeout: by its default of 30 s, the edge would know only
  # addresses that are gone, or none.
  [ -z "${EDGE_RESOLVER:-}" ] || printf 'resolver %s valid=2s ipv6=%s;\nresolver_timeout 2s;\n' "$EDGE_RESOLVER" "$ipv6"
  upstream auth "$(full "${AUTH_UPSTREAM:-}")"
  upstream products "$(full "${PRODUCTS_UPSTREAM:-}")"
  upstream orders "$(full "${ORDERS_UPSTREAM:-}")"
  upstream notifications "$(full "${NOTIFICATIONS_UPSTREAM:-}")"
} >"$out/upstreams.conf"

# Whose X-Forwarded-For counts; without any, the peer is the client.
{
  # A * stands for no files here.
  set -f
  for network in $(printf %s "${TRUSTED_PROXIES:-}" | tr , ' '); do
    case $network in *[!0-9a-fA-F.:/]*) fault "TRUSTED_PROXIES has $network, and must be addresses or networks, with commas between. Example: 10.0.0.0/8,192.168.1.5" ;; esac
    printf 'set_real_ip_from %s;\n' "$network"
  done
  set +f
  [ -z "${TRUSTED_PROXIES:-}" ] || printf 'real_ip_header X-Forwarded-For;\nreal_ip_recursive on;\n'
} >"$out/real-ip.conf"

# With a certificate, EDGE_TLS_LISTEN speaks TLS and EDGE_LISTEN sends everyone there; without, EDGE_LISTEN is the shop.
certificate=${SECRETS_DIR:-/secrets}/TLS_CERT
key=${SECRETS_DIR:-/secrets}/TLS_KEY
if [ -s "$certificate" ] || [ -s "$key" ]; then
  for file in "$certificate" "$key"; do
    [ -s "$file" ] || fault "$file is missing or empty: TLS_CERT and TLS_KEY come together"
    [ -r "$file" ] || fault "$file cannot be read; give it mode 0444, in a directory that only its owner enters"
  done
  [ -n "${PUBLIC_URL:-}" ] || fault "PUBLIC_URL is missing: where the redirect to TLS leads. Example: https://shop.example.org"
  cat >"$out/listen.conf" <<END
listen ${EDGE_TLS_LISTEN:-8443} ssl backlog=4096;
http2 on;
ssl_certificate $certificate;
ssl_certificate_key $key;
ssl_protocols TLSv1.2 TLSv1.3;
ssl_session_cache shared:tls:10m;
ssl_session_tickets off;
add_header Strict-Transport-Security "max-age=31536000";
END
  cat >"$out/redirect.conf" <<END
server {
  listen ${EDGE_LISTEN:-8080};
  server_name _;
  include problems.conf;
  # No body is taken, so none is too large to be sent there.
  client_max_body_size 0;
  location / { return 308 ${PUBLIC_URL%/}\$request_uri; }
  location = /healthz {
    default_type application/json;
    return 200 '{"status":"alive"}\\n';
  }
}
END
else
  # A thousand customers who come at the same moment are more than the 511 that nginx lets wait: the others would ask
  # again after 1, 3 and 7 s. The kernel may allow less (net.core.somaxconn).
  printf 'listen %s backlog=4096;\n' "${EDGE_LISTEN:-8080}" >"$out/listen.conf"
  : >"$out/redirect.conf"
fi

[ -z "$faulty" ] || exit 78

quoted() { printf '%s' "$1" | sed 's/[\\|&]/\\&/g'; }
sed -e "s|\${EDGE_SOURCE}|$(quoted "$source")|g" \
  -e "s|\${EDGE_WORKERS}|$(quoted "${EDGE_WORKERS:-auto}")|g" \
  -e "s|\${EDGE_DOCS}|$(quoted "${EDGE_DOCS:-$source/../../node_modules/swagger-ui-dist}")|g" \
  -e "s|\${EDGE_SIGN_IN_RATE}|$(quoted "${EDGE_SIGN_IN_RATE:-5r/s}")|g" \
  -e "s|\${EDGE_SIGN_IN_BURST}|$(quoted "${EDGE_SIGN_IN_BURST:-20}")|g" \
  -e "s|\${EDGE_MAIL_RATE}|$(quoted "${EDGE_MAIL_RATE:-30r/m}")|g" \
  -e "s|\${EDGE_MAIL_BURST}|$(quoted "${EDGE_MAIL_BURST:-10}")|g" \
  -e "s|\${EDGE_PICTURE_RATE}|$(quoted "${EDGE_PICTURE_RATE:-3r/m}")|g" \
  -e "s|\${EDGE_PICTURE_BURST}|$(quoted "${EDGE_PICTURE_BURST:-10}")|g" \
  -e "s|\${EDGE_UPLOADS}|$(quoted "${EDGE_UPLOADS:-8}")|g" \
  -e "s|\${PRODUCT_READ}|$PRODUCT_READ|g" \
  "$source/nginx.conf" >"$out/nginx.conf"

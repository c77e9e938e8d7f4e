#!/usr/bin/env bash
# rotate.sh ENV WHAT…: changes recipients, the data key, or values; says what has to be done next. Safe to run again.
# WHAT: recipients data-key jwt assertion pepper database nats smtp s3, or a KEY of the template.
# recipients take ADD=age1… [NAME=…] and REMOVE=age1… from the environment.
. "$(dirname "$0")/lib.sh"
environment "${1:-}"
shift
[ $# -gt 0 ] || die "WHAT is to be rotated?" "next: make secrets-rotate ENV=$env WHAT=recipients, data-key, jwt, assertion, pepper, database, nats, smtp, s3 or a KEY of $template"
twice=$(printf '%s\n' "$@" | awk 'seen[$0]++ { print; exit }')
# Both would begin with the values of now: of a key that changes in two steps, the one before would be in use again.
[ -z "$twice" ] || die "WHAT has $twice twice" "Nothing was changed." "next: name each once; what takes two steps takes two runs, with an apply in between"
need sops age-keygen openssl
read_template
lock
[ -f "$sealed" ] || die "$sealed is missing" "next: make secrets ENV=$env"
open_sealed "$sealed"
before=$(sealed_strings "$sealed")
steps=()
next() { steps+=("$@"); }

change() {
  local key name
  for key; do
    place_of "$key" || die "there is no $key in $template"
    generate
    printf -v "new_$key" '%s' "$value"
  done
  seal_into "$draft" "$@"
}
put() {
  printf -v "new_$1" '%s' "$2"
  seal_into "$draft" "$1"
}
value_of() { local name=value_$1; printf '%s' "${!name:-}"; }

recipients() {
  local add=${ADD:-} remove=${REMOVE:-} mine list error
  mine=$(own_recipients)
  writable .
  cp .sops.yaml .sops.yaml.new
  if [ -n "$add" ]; then
    [[ $add =~ ^age1[a-z0-9]+$ ]] || die "ADD=$add is not a recipient" "A recipient is what age-keygen -y IDENTITY prints; an identity (AGE-SECRET-KEY-…) is never shared." "next: ask for the recipient"
    [[ ${NAME:-} != *[[:cntrl:]]* ]] || die "NAME has control characters"
    recipients_of "$env" | grep -qxF "$add" || edit_recipients "$env" add "$add" "${NAME:-}"
  fi
  if [ -n "$remove" ]; then
    ! printf '%s\n' "$mine" | grep -qxF -- "$remove" || die "$remove is you" "You could not open the secrets of $env any more." "next: another recipient removes you"
    recipients_of "$env" | grep -qxF -- "$remove" || sealed_for "$sealed" | grep -qxF -- "$remove" ||
      die "$remove is no recipient of $env" "there are: $(recipients_of "$env" | named | awk 'NR > 1 { printf ", " } { printf "%s", $0 }')" "next: REMOVE= one of those"
    edit_recipients "$env" remove "$remove"
  fi
  list=$(recipients_of "$env" .sops.yaml.new)
  [ -n "$list" ] || die ".sops.yaml has no recipient of $env" "next: ADD=age1…"
  [ -z "$mine" ] || printf '%s\n' "$mine" | grep -qxF -- "$list" ||
    die "you ($mine) are not among the recipients of $env in .sops.yaml" "You could not open the secrets of $env any more." "next: add yourself with ADD=, or let another recipient do this"
  error=$(sops --config .sops.yaml.new updatekeys --yes --input-type yaml "$draft" 2>&1) || explain "$draft" "$error"
  if [ -n "$remove" ]; then
    data_key
    next "off-boarding: $remove may have kept every value until now; change them: make secrets-rotate ENV=$env WHAT=\"jwt assertion pepper database nats s3 smtp\"" \
      "15 minutes after that is applied, since keys move up by one place and logins take turns, so that what $remove knows is still good: make secrets-rotate ENV=$env WHAT=\"jwt assertion pepper database\"" \
      "15 minutes after that is applied, the same once more, and then: make secrets-rotate ENV=$env WHAT=\"ASSERTION_KEY_PREVIOUS CODE_PEPPER_PREVIOUS\"" \
      "take their access to the hosts, the cluster and the repository away too: docs/secrets.md"
  fi
  chmod 644 .sops.yaml.new
  say "$env is sealed for: $(sealed_for "$draft" | named | awk 'NR > 1 { printf ", " } { printf "%s", $0 }')"
}
data_key() {
  local error
  error=$(sops rotate -i --input-type yaml --output-type yaml "$draft" 2>&1) || explain "$draft" "$error"
}

# next → active → previous. Every role has known the next one since the last rotation, so no token is refused.
jwt() {
  local keys fresh
  fresh=$(signing_key next)
  keys=$(value_of JWT_KEYS | awk '
    { text = text $0 }
    END { n = split(text, part, "\"")
      for (i = 2; i <= n; i += 4) { f[part[i]] = part[i + 2]
        if (part[i + 3] ~ /\}/) { kid[f["state"]] = f["kid"]; pem[f["state"]] = f["pem"]; split("", f) } }
      if (kid["next"] == "" || kid["active"] == "") exit 1
      printf "{\"kid\":\"%s\",\"state\":\"active\",\"pem\":\"%s\"},{\"kid\":\"%s\",\"state\":\"previous\",\"pem\":\"%s\"}", kid["next"], pem["next"], kid["active"], pem["active"] }') ||
    die "JWT_KEYS has no next or no active key" "Its form is [{\"kid\",\"state\":\"next|active|previous\",\"pem\"}…]." "next: make secrets-edit ENV=$env"
  put JWT_KEYS "[$fresh,$keys]"
  next "restart auth; then wait 15 minutes before the next rotation of jwt: tokens of the previous key live 10, its list is cached for 5"
}

# A key that one process signs with and others check: first all of them accept the new one, then it is used.
two_steps() {
  local key=$1 what=$2 users=$3 mark fresh
  mark=$(awk -v m="bodega.$what-rotation:" '/^stringData:/ { exit } index($0, m) { print $2 }' "$draft")
  if [ "$mark" = announced ] && [ -n "$(value_of "${key}_PREVIOUS")" ]; then
    put "${key}_PREVIOUS" "$(value_of "$key")"
    put "$key" "$(value_of "${key}_PREVIOUS")"
    mark "$what" used
    say "$what: step 2 of 2, the announced key is used and the old one still accepted"
    next "restart $users; to have the old key refused too, later: make secrets-rotate ENV=$env WHAT=${key}_PREVIOUS"
  else
    fresh=$(openssl rand -hex 32) || die "openssl makes no key" "next: openssl rand -hex 32"
    put "${key}_PREVIOUS" "$fresh"
    mark "$what" announced
    say "$what: step 1 of 2, a new key is accepted beside the one in use"
    next "restart $users and wait until all are ready; then run WHAT=$what again for step 2 of 2"
  fi
}
mark() {
  local error
  error=$(printf '"%s"' "$2" | sops set --value-stdin --input-type yaml --output-type yaml "$draft" "[\"metadata\"][\"annotations\"][\"bodega.$1-rotation\"]" 2>&1) || explain "$draft" "$error"
}

# The other login of the pair, with a new password: the one in use stays valid while old processes run.
take_turns() {
  local login
  login=$(value_of "$1")
  case $login in
    *_a) put "$1" "${login%_a}_b" ;;
    *_b) put "$1" "${login%_b}_a" ;;
    *) die "$1 is '$login', not one of two that take turns (…_a, …_b)" "That login is yours." "next: change it with make secrets-edit ENV=$env" ;;
  esac
}
database() {
  local role
  for role in AUTH PRODUCTS ORDERS NOTIFICATIONS; do
    take_turns "${role}_DATABASE_USER"
    change "${role}_DATABASE_PASSWORD"
  done
  next "run migrate (it makes the logins), then restart auth products orders notifications" \
    "the logins used until now keep working until the next rotation of database; to end them sooner: alter role orders_a nologin"
}
nats() {
  change AUTH_NATS_PASSWORD PRODUCTS_NATS_PASSWORD ORDERS_NATS_PASSWORD NOTIFICATIONS_NATS_PASSWORD MIGRATE_NATS_PASSWORD
  next "restart nats, then auth products orders notifications: in between, events wait in the outbox and no request fails"
}
smtp() {
  asking=always
  change SMTP_URL SMTP_USER SMTP_PASSWORD
  next "restart notifications; then withdraw the old password at the mail server"
}
s3() {
  take_turns S3_ACCESS_KEY
  change S3_SECRET_KEY
  next "restart objectstore, then auth products: uploads and pictures that no cache holds fail in between" \
    "a store outside: make the key there first"
}

one() {
  case $1 in
    recipients | jwt | database | nats | smtp | s3) "$1" ;;
    data-key)
      data_key
      next "every value is sealed anew, so all that mount one restart: apply at a quiet hour"
      ;;
    assertion) two_steps ASSERTION_KEY assertion "auth products orders notifications" ;;
    pepper) two_steps CODE_PEPPER pepper auth ;;
    ASSERTION_KEY) die "ASSERTION_KEY changes in two steps" "next: WHAT=assertion" ;;
    CODE_PEPPER) die "CODE_PEPPER changes in two steps" "next: WHAT=pepper" ;;
    JWT_KEYS) die "JWT_KEYS changes key by key" "next: WHAT=jwt" ;;
    *_DATABASE_USER | *_DATABASE_PASSWORD) die "$1 changes with its login" "next: WHAT=database" ;;
    S3_*) die "$1 changes with its pair" "next: WHAT=s3" ;;
    *)
      place_of "$1" || die "WHAT=$1 is neither a group nor a key" "keys: see $template" \
        "next: WHAT=recipients, data-key, jwt, assertion, pepper, database, nats, smtp, s3 or such a key"
      asking=always
      change "$1"
      case $1 in
        POSTGRES_PASSWORD) next "the server reads it only when its volume is empty: set it there too, alter role postgres password '…'; then restart postgres migrate" ;;
        NATS_PEER_PASSWORD) next "where the bus has three servers, in a cluster, all of them restart at once, which make secrets-apply does; a single one, as on a host, does not mount it" ;;
        *_PREVIOUS) next "the old key is refused from now on; restart $(users_of "$1" | tr '\n' ' ')" ;;
        *) next "restart $(users_of "$1" | tr '\n' ' ')" ;;
      esac
      ;;
  esac
}

draft_sealed
for what; do
  one "$what"
done
# The list first: a run that ends in between is made up for by what the list says, and who was removed does not come back.
[ ! -f .sops.yaml.new ] || mv -f .sops.yaml.new .sops.yaml
publish_sealed
finish_change "$before"
say "next: commit, then on a server: make secrets ENV=$env && make roll; in a cluster: make secrets-apply ENV=$env"
# bash 3.2 takes an empty list for one that is not set.
[ ${#steps[@]} -eq 0 ] || for step in "${steps[@]}"; do say "next: $step"; done

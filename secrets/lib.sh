# shellcheck shell=bash
# What the commands beside this file share. bash ≥ 3.2 and the tools of POSIX, so that a Mac runs it as it is.
# A secret is only ever in a variable or a pipe: never in an argument, an exported variable, a here-document (older
# bash writes those to disk) or a temporary file.
set -euo pipefail
umask 077
export LC_ALL=C
# With one, cd leads elsewhere, or says where it went.
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/shared.sh

template=secrets/template.yaml
command_name=secrets
note() { printf 'secrets: %s\n' "$*" >&2; }

# Every file is written beside its target under a name with .new and renamed. What a kill -9 left is removed first.
scratch=()
# shellcheck disable=SC2034 # read by the commands
dotenv_written=''
on_exit() {
  local code=$?
  [ ${#scratch[@]} -eq 0 ] || rm -rf "${scratch[@]}"
  exit "$code"
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
scratch() {
  rm -rf "$1" 2>/dev/null || die "$1 is left from an interrupted run and cannot be removed" "next: remove it"
  scratch+=("$1")
}

writable() {
  [ -w "$1" ] || die "$1 cannot be written" "The user $(id -un) needs write permission there; nothing was changed." \
    "next: chmod u+w $1, or run as its owner: $(owner "$1")"
}
owner() { find "$1" -prune -exec ls -ld {} \; | awk '{ print $3 }'; }

# One run at a time; the lock is on the directory itself, so it leaves no file and goes with the process. What is left in a
# tree that is read-only (unpack.sh at boot) stays: nothing is written there.
lock() {
  local left
  exec 9<secrets
  ! command -v flock >/dev/null || flock -w 20 9 ||
    die "another secrets command is running here" "next: wait for it, then run this again"
  for left in "$identity.new" ./.sops.yaml.new ./.env.new "secrets/$env"/.new.*; do [ ! -w "${left%/*}" ] || scratch "$left"; done
}

need() {
  local tool missing=()
  for tool; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  [ ${#missing[@]} -eq 0 ] || die "not installed: ${missing[*]}" "$(printf '%s\n' "${missing[@]}" | how_to_install)"
  [[ " $* " != *" sops "* ]] || sops_version
}
how_to_install() {
  local tool hints=''
  while read -r tool; do
    case $tool in
      sops) hints+="sops ≥ 3.11: brew install sops, or a package or program of github.com/getsops/sops/releases"$'\n  ' ;;
      age | age-keygen) hints+="age: apt-get install age, brew install age, or github.com/FiloSottile/age/releases"$'\n  ' ;;
      kubectl) hints+="kubectl: kubernetes.io/docs/tasks/tools"$'\n  ' ;;
      *) hints+="$tool: apt-get install $tool, brew install $tool"$'\n  ' ;;
    esac
  done
  printf '%s' "${hints}then run this again"
}
sops_version() {
  local version
  version=$(sops --version --disable-version-check 2>/dev/null | awk 'NR == 1 { print $2 }') || version=''
  awk -v v="$version" 'BEGIN { split(v, n, "."); exit !(n[1] > 3 || (n[1] == 3 && n[2] >= 11)) }' ||
    die "sops is ${version:-of an unknown version}, 3.11 or newer is needed (it takes values by a pipe)" \
      "$(echo sops | how_to_install)"
}

# Sets env and sealed from the name of an environment; none is the one that this host runs, by .env, and dev on a new one.
environment() {
  env=${1:-$(from_dotenv BODEGA_ENV)}
  env=${env:-dev}
  environments | grep -qxF -- "$env" || die "there is no environment '$env'" \
    "An environment is a rule '- path_regex: ^secrets/NAME/…' in .sops.yaml; there are: $(environments | tr '\n' ' ')" \
    "next: make secrets ENV=dev, or add a rule to .sops.yaml"
  sealed=secrets/$env/bodega.sops.yaml
}
environments() { [ ! -f .sops.yaml ] || awk -F/ '/path_regex: \^secrets\// { print $2 }' .sops.yaml; }

# The lines of an environment's rule in .sops.yaml.
rule_of() {
  awk -v start="path_regex: ^secrets/$1/" '
    /^ *- / && !/^ *- age1/ { inside = index($0, start) > 0; found = found || inside }
    inside { print }
    END { exit !found }' "${2:-.sops.yaml}" 2>/dev/null
}
recipients_of() { rule_of "$@" | awk '/^ *- age1/ { print $2 }'; }
name_of() { awk -v r="$1" '/^ *- age1/ && $2 == r { sub(/^[^#]*#? */, ""); print; exit }' .sops.yaml; }
named() {
  local r name
  while read -r r; do
    name=$(name_of "$r")
    printf '%s%s\n' "$r" "${name:+ ($name)}"
  done
}
sealed_for() { awk '/^ +(- )?recipient: age1/ { print $NF }' "$1"; }

# edit_recipients ENV add|remove RECIPIENT [NAME], on .sops.yaml.new
edit_recipients() {
  local text
  [ -f .sops.yaml.new ] || cp .sops.yaml .sops.yaml.new
  rule_of "$1" | grep -q '^ *age:' || die ".sops.yaml: the rule of $1 has no 'age:' list" \
    "Its form is:     age:" "                   - age1… # name" "next: bring it into that form"
  text=$(awk -v start="path_regex: ^secrets/$1/" -v act="$2" -v r="$3" -v name="${4:+ # $4}" '
    /^ *- / && !/^ *- age1/ { inside = index($0, start) > 0 }
    inside && act == "add" && /^ *age:/ { sub(/age:.*/, "age:"); print; print "      - " r name; next }
    inside && act == "remove" && /^ *- age1/ && $2 == r { next }
    { print }' .sops.yaml.new)
  printf '%s\n' "$text" >.sops.yaml.new
  chmod 644 .sops.yaml.new
}

identity=${SOPS_AGE_KEY_FILE:-${XDG_CONFIG_HOME:-${HOME:-/root}/.config}/sops/age/keys.txt}
elsewhere=${SOPS_AGE_KEY:-}${SOPS_AGE_KEY_CMD:-}
[ ! -e "$identity" ] || export SOPS_AGE_KEY_FILE="$identity"
has_identity() { [ -n "$elsewhere" ] || [ -e "$identity" ]; }

# The recipients of the identities at hand; those of a command or a plugin are known to sops only.
own_recipients() {
  [ -z "${SOPS_AGE_KEY:-}" ] || printf '%s\n' "$SOPS_AGE_KEY" | age-keygen -y 2>/dev/null || true
  [ ! -e "$identity" ] || age-keygen -y "$identity" 2>/dev/null || [ -n "$elsewhere" ] || die "$identity holds no age identity that can be read" \
    "An identity is never overwritten; it begins with AGE-SECRET-KEY-." \
    "next: bring it back from your backup, or move the file away for a new one"
}

make_identity() {
  local folder
  folder=$(dirname "$identity")
  mkdir -p "$folder" 2>/dev/null && [ -w "$folder" ] || die "no identity, and $folder cannot be written to make one" \
    "next: give SOPS_AGE_KEY_FILE a path that can be written"
  age-keygen -o "$identity.new" 2>/dev/null || die "age-keygen could not write $identity.new" "next: look at free space and permissions of $folder"
  # A link, unlike a rename, fails where somebody made one in the meantime.
  ln "$identity.new" "$identity" 2>/dev/null || die "$identity has come into being meanwhile and is kept" "next: run this again"
  rm -f "$identity.new"
  export SOPS_AGE_KEY_FILE="$identity"
  say "identity made: $identity (keep a copy somewhere safe: without it the secrets are lost)"
}

# Reads the template into t_key, t_make, t_arg, t_dev, t_empty, t_used ("orders=DATABASE_PASSWORD …") and t_help.
read_template() {
  local line key make arg dev empty used help
  t_key=() t_make=() t_arg=() t_dev=() t_empty=() t_used=() t_help=()
  [ -r "$template" ] || die "$template is missing" "next: git checkout -- $template"
  line=$(awk '
    function fault(at) { print "!" at; over = 1; exit }
    function put() { if (key == "" || over) return
      make = f["make"]; arg = ""
      if (make ~ /^\{/) { gsub(/^\{ *| *\}$/, "", make); arg = make; sub(/:.*/, "", make); sub(/^[a-z]+: */, "", arg); gsub(/^"|"$/, "", arg) }
      used = f["used"]; gsub(/[{} ]/, "", used); gsub(/:/, "=", used); gsub(/,/, " ", used)
      if (make !~ /^(password|key|rsa-jwt-keys|login|fixed|given)$/ || used == "" || f["help"] == "") fault(start)
      print key "|" make "|" arg "|" f["dev"] "|" f["empty"] "|" used "|" f["help"] }
    /^ *(#|$)/ { next }
    /\|/ { fault(NR) }
    /^[A-Z][A-Z0-9_]*:$/ { put(); split("", f); key = substr($0, 1, length($0) - 1); start = NR; next }
    /^  (used|make|dev|empty|help): ./ { name = $1; sub(/:/, "", name); sub(/^  [a-z]+: */, ""); f[name] = $0; next }
    { fault(NR) }
    END { put() }' "$template")
  [[ $'\n'$line != *$'\n!'* ]] || die "$template, line ${line##*!}: not of the form that its head describes" "next: git diff $template"
  while IFS='|' read -r key make arg dev empty used help; do
    t_key+=("$key") t_make+=("$make") t_arg+=("$arg") t_dev+=("$dev") t_empty+=("$empty") t_used+=("$used") t_help+=("$help")
  done < <(printf '%s\n' "$line")
}
# Sets i to the place of a key in the template.
place_of() {
  for i in "${!t_key[@]}"; do [ "${t_key[i]}" != "$1" ] || return 0; done
  return 1
}
# The keys that a user of the template mounts: users_of KEY, mounts_of USER.
users_of() { local i; ! place_of "$1" || printf '%s\n' "${t_used[i]}" | tr ' ' '\n' | sed 's/=.*//'; }
mounts_of() {
  local i
  for i in "${!t_key[@]}"; do [[ " ${t_used[i]}" != *" $1="* ]] || printf '%s\n' "${t_key[i]}"; done
}
all_users() { printf '%s\n' "${t_used[@]}" | tr ' ' '\n' | sed 's/=.*//' | awk '!seen[$0]++'; }

# A JSON string, which is a YAML one too, of what comes in.
json_string() {
  awk 'BEGIN { printf "\"" }
    NR > 1 { printf "\\n" }
    { n = length($0)
      for (i = 1; i <= n; i++) { c = substr($0, i, 1)
        if (c == "\\" || c == "\"") printf "\\%s", c; else if (c == "\t") printf "\\t"; else printf "%s", c } }
    END { printf "\"" }'
}

signing_key() {
  local pem
  pem=$(openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 2>/dev/null | awk '{ printf "%s\\n", $0 }')
  [[ $pem == *'PRIVATE KEY'* ]] || die "openssl could not make an RSA key" "next: openssl genpkey -algorithm RSA"
  printf '{"kid":"%s","state":"%s","pem":"%s"}' "$(openssl rand -hex 8)" "$1" "$pem"
}
random_password() { openssl rand -base64 33 | tr '+/' '-_' | cut -c1-43 | sed 's/^/p/'; }

# Sets value to a new one for the key at place i. A given one comes from the environment or the terminal.
generate() {
  local key=${t_key[i]}
  case ${t_make[i]} in
    password) value=$(random_password) || value='' ;;
    key) value=$(openssl rand -hex 32) || value='' ;;
    rsa-jwt-keys) value="[$(signing_key next),$(signing_key active)]" ;;
    login) value=${t_arg[i]}_a ;;
    fixed) value=${t_arg[i]} ;;
    given) given ;;
  esac
  [ -n "$value" ] || [ "${t_make[i]}" = fixed ] || [ -n "${t_empty[i]}" ] || die "$key could not be made" "Nothing was sealed." "next: see above; openssl rand -hex 32 has to print a key"
}
given() {
  local key=${t_key[i]}
  value=
  if [ "$env" = dev ] && [ "${asking:-}" != always ]; then
    value=${t_dev[i]}
  elif [ -n "${!key:-}" ]; then
    value=${!key}
  elif [ -t 0 ]; then
    printf '%s: %s\n%s (not shown%s): ' "$key" "${t_help[i]}" "$key" "${t_empty[i]:+, may be empty}" >&2
    IFS= read -r -s value || true
    printf '\n' >&2
  fi
  [[ $value != *[[:cntrl:]]* ]] || die "$key: control characters cannot be part of it"
  [ -n "$value" ] || [ -n "${t_empty[i]}" ] || die "$key is yours to give: ${t_help[i]}" "Nothing was sealed." \
    "next: run this in a terminal, which asks for it, or with $key in the environment"
}

# Sets value_KEY and opened (the keys) from a sealed file, whose MAC is checked thereby.
open_sealed() {
  local json line key text
  has_identity || die "no age identity to open $1 with" "Looked in \$SOPS_AGE_KEY, \$SOPS_AGE_KEY_CMD and $identity." \
    "next: bring yours back from its backup; if you never had one, make secrets ENV=$env makes it"
  json=$(sops decrypt --input-type yaml --output-type json --extract '["stringData"]' "$1" 2>/dev/null) ||
    explain "$1" "$(sops decrypt --input-type yaml --output-type yaml "$1" 2>&1 >/dev/null)"
  # JSON's escapes are those of printf %b, but for \u, \/ and \".
  json=$(printf '%s\n' "$json" | awk '
    /^[{}]$/ { next }
    !/^\t"[A-Z][A-Z0-9_]*": ".*",?$/ { print "?"; exit }
    { key = $0; sub(/^\t"/, "", key); sub(/".*/, "", key)
      sub(/^[^:]*: "/, ""); sub(/",?$/, ""); out = ""; n = length($0)
      for (i = 1; i <= n; i++) { c = substr($0, i, 1)
        if (c != "\\") { out = out c; continue }
        c = substr($0, ++i, 1)
        if (c == "u") { code = substr($0, i + 1, 4); i += 4
          if (substr(code, 1, 2) != "00") { print "?"; exit }
          d = (index("0123456789abcdef", tolower(substr(code, 3, 1))) - 1) * 16 + index("0123456789abcdef", tolower(substr(code, 4, 1))) - 1
          out = out sprintf("\\0%03o", d) }
        else if (c == "/" || c == "\"") out = out c
        else out = out "\\" c }
      print key " " out }')
  # No KEY begins so.
  [[ $'\n'$json != *$'\n?'* ]] || die "$1: stringData is not a list of KEY: text" \
    "next: make secrets-edit ENV=$env, and quote every value"
  opened=()
  while IFS= read -r line; do
    key=${line%% *}
    text=${line#* }
    [ -n "$key" ] || continue
    printf -v "value_$key" '%b' "$text"
    opened+=("$key")
  done < <(printf '%s\n' "$json")
}
is_open() { [[ " ${opened[*]:-} " == *" $1 "* ]]; }

# Says why sops refused a file, and ends.
explain() {
  local mine
  set -- "${1/.new./}" "$2"
  case $2 in
    *'Failed to get the data key'* | *'no identity matched'*)
      mine=$(own_recipients)
      die "none of your identities opens $1" "yours: ${mine:-unknown} in $identity" \
        "it is sealed for: $(sealed_for "$1" | named | awk 'NR > 1 { printf ", " } { printf "%s", $0 }')" \
        "next: one of those runs: make secrets-rotate WHAT=recipients ENV=$env ADD=$(printf '%s' "${mine:-age1…}" | head -1) NAME=you" \
        "      and commits; or bring the right identity back from its backup"
      ;;
    *'MAC mismatch'*)
      die "$1 was changed by something other than sops (MAC mismatch); nothing of it is used" \
        "next: git log -p -- $1 to see who did, git checkout -- $1 to take the committed one"
      ;;
    *'no matching creation rules'*)
      die ".sops.yaml has no rule that matches $1" "next: see the rules there; a path_regex is anchored: ^secrets/$env/[^/]+\\.sops\\.yaml\$"
      ;;
    *'malformed recipient'* | *'unknown recipient'* | *'failed to parse input'*)
      die "${ADD:+ADD= or }.sops.yaml names a recipient of $env that age does not know: $(printf '%s\n' "$2" | sed -n 's/.*malformed recipient \("[^"]*"\).*/\1/p' | head -1)" \
        "A recipient is what age-keygen -y IDENTITY prints: age1 and 58 characters." "next: correct it there, then run this again"
      ;;
    *)
      die "$1 is damaged: it cannot be read as a sealed file" "sops says: $(printf '%s\n' "$2" | head -1)" \
        "next: git checkout -- $1, or take it from a backup"
      ;;
  esac
}

# Seals new_KEY for each key given into the file $1, a copy. Other values keep their very ciphertext.
seal_into() {
  local file=$1 key name error
  shift
  for key; do
    name=new_$key
    error=$(printf '%s' "${!name}" | json_string | sops set --value-stdin --input-type yaml --output-type yaml "$file" "[\"stringData\"][\"$key\"]" 2>&1) ||
      explain "$file" "$error"
  done
}
# A copy of the sealed file to work on.
draft=
draft_sealed() {
  draft=secrets/$env/.new.bodega.sops.yaml
  writable "secrets/$env"
  scratch "$draft"
  cp "$sealed" "$draft"
  chmod 600 "$draft"
}
publish_sealed() {
  chmod 644 "$draft"
  mv -f "$draft" "$sealed"
}

# "KEY ENC[…]" for each value as it is sealed.
sealed_strings() {
  awk '/^stringData:/ { inside = 1; next } /^[^ ]/ { inside = 0 }
    inside && /^ +[A-Z][A-Z0-9_]*: / { key = $1; sub(/:$/, "", key); print key, $2 }' "$1"
}
sha256() { openssl dgst -sha256 -r | cut -c1-"${1:-16}"; }
# hash_of USER STRINGS: over the sealed strings that a user mounts; it changes with them and says nothing of the values.
hash_of() { { mounts_of "$1"; printf '%s\n' -- "$2"; } | awk '$0 == "--" { rest = 1; next } !rest { mine[$1]; next } $1 in mine' | sha256; }
hashes() {
  local user strings
  strings=$(sealed_strings "$sealed")
  for user in $(all_users); do
    printf 'BODEGA_HASH_%s=%s\n' "$(printf '%s' "$user" | tr 'a-z-' 'A-Z_')" "$(hash_of "$user" "$strings")"
  done
}

# The same hashes beside the sealed file, as annotations of pods, for a cluster that takes both from git: a Kustomize
# component, and values of the chart. The database and the peers of the bus do not change by a restart (see the template).
write_hashes() {
  local user hash group about strings patches='' roles='' others='' head="# Written by \`make secrets\` with the sealed file; commit them together. docs/gitops.md says what it is for."
  strings=$(sealed_strings "$sealed")
  for user in $(all_users); do
    # Without a word before it, one in a few hundred would read as a number (12e34567…).
    hash=sha256-$(hash_of "$user" "$strings") group=apps about=''
    case $user in
      postgres | nats-peers) continue ;;
      migrate)
        # A Job's template cannot be changed: Flux and Argo CD make it anew where they are told so.
        group=batch about=', annotations: { kustomize.toolkit.fluxcd.io/force: enabled, argocd.argoproj.io/sync-options: "Force=true,Replace=true" }'
        others+="$user: { podAnnotations: { bodega.secrets: \"$hash\" } }"$'\n'
        ;;
      nats | objectstore) others+="$user: { podAnnotations: { bodega.secrets: \"$hash\" } }"$'\n' ;;
      *) roles+="  $user: { podAnnotations: { bodega.secrets: \"$hash\" } }"$'\n' ;;
    esac
    patches+="  - target: { group: $group, labelSelector: app.kubernetes.io/component=$user }"$'\n'
    patches+="    patch: '{ apiVersion: any, kind: any, metadata: { name: any$about }, spec: { template: { metadata: { annotations: { bodega.secrets: \"$hash\" } } } } }'"$'\n'
  done
  put_beside hashes/kustomization.yaml "$head
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
${patches%?}"
  put_beside hashes/values.yaml "$head
roles:
$roles${others%?}"
}
# put_beside NAME TEXT: a file beside the sealed one, written only where it differs.
put_beside() {
  local file=secrets/$env/$1 new=secrets/$env/.new.${1##*/}
  [ ! -f "$file" ] || [ "$2" != "$(cat "$file")" ] || return 0
  mkdir -p "${file%/*}"
  writable "${file%/*}"
  chmod 755 "${file%/*}"
  scratch "$new"
  printf '%s\n' "$2" >"$new"
  chmod 644 "$new"
  mv -f "$new" "$file"
}

# This host runs an environment when .env says so.
runs_here() { [ "$(from_dotenv BODEGA_ENV)" = "$env" ]; }
# Sets plain to the directory of the unpacked files, chosen to `chosen` if it is not the default.
plain_directory() {
  chosen=${BODEGA_SECRETS:-}
  [ -n "$chosen" ] || ! runs_here || chosen=$(from_dotenv BODEGA_SECRETS)
  [[ $chosen != *'$'* && $chosen != '~'* ]] || die "BODEGA_SECRETS is $chosen, which only a shell would read as you mean it" "next: write it out"
  plain=${chosen:-secrets/.plain/$env}
}

# Writes each opened value to $plain/KEY (0444: a container's user reads it; the directory, 0700, keeps others out) and
# the two files that servers take instead of single values. A file is replaced only where it differs, and as a whole.
unpack() {
  local key name new stale=0 changed=()
  plain_directory
  mkdir -p "$plain" 2>/dev/null || die "$plain cannot be made" "next: give BODEGA_SECRETS a directory that can be written"
  [ -z "$(find "$plain/." -prune \( -perm -002 -o -perm -020 \))" ] || die "$plain is writable for others" \
    "Secrets are not put where others can replace them." "next: chmod 700 $plain, or choose another BODEGA_SECRETS"
  writable "$plain"
  chmod 700 "$plain"
  in_ram
  new=$plain/.new
  scratch "$new"
  mkdir "$new"
  for key in "${opened[@]}"; do
    name=value_$key
    printf '%s' "${!name}" >"$new/$key" || die "$plain is full" "The files there are as they were." "next: make room, then run this again"
  done
  derived_files "$new"
  for name in "$new"/*; do
    key=${name##*/}
    [ ! -d "$plain/$key" ] || die "$plain/$key is a directory" "Docker makes one in place of a file that is missing." "next: rmdir $plain/$key"
    cmp -s "$name" "$plain/$key" || changed+=("$name")
  done
  (cd "$new" && ls) >"$new/.unpacked"
  chmod 444 "$new"/*
  if [ -f "$plain/.unpacked" ]; then
    # Only what an earlier run unpacked is removed: an operator may keep files of his own here.
    for key in $(comm -23 "$plain/.unpacked" "$new/.unpacked"); do rm -f "$plain/$key" && stale=$((stale + 1)); done
  fi
  [ ${#changed[@]} -eq 0 ] || mv -f "${changed[@]}" "$plain/"
  cmp -s "$new/.unpacked" "$plain/.unpacked" || mv -f "$new/.unpacked" "$plain/.unpacked"
  rm -rf "$new"
  unpacked=$((${#changed[@]} + stale))
  [ ! -e "secrets/.plain/$env/.unpacked" ] || [ "secrets/.plain/$env" -ef "$plain" ] ||
    note "secrets/.plain/$env still has the secrets from before in the clear; next: make roll, then rm -r secrets/.plain/$env"
}
in_ram() {
  local kind
  [ "$env" = prod ] && [ "$(uname)" = Linux ] || return 0
  kind=$(stat -f -c %T "$plain" 2>/dev/null) || return 0
  [[ $kind == tmpfs || $kind == ramfs ]] || note "$plain is on a disk ($kind): on a server, BODEGA_SECRETS=/run/bodega keeps the secrets in RAM"
}
derived_files() {
  local key name
  # Configuration variables for the bus: it refuses one that nobody uses, so exactly its own.
  for key in $(mounts_of nats); do
    name=value_$key
    [ -z "${!name:-}" ] || printf '%s: "%s"\n' "$key" "${!name}"
  done >"$1/nats.vars"
  printf '{"identities":[{"name":"bodega","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":["Admin","Read","Write","List","Tagging"]}]}\n' \
    "${value_S3_ACCESS_KEY:-}" "${value_S3_SECRET_KEY:-}" >"$1/s3.json"
}

# Brings the lines that are ours in .env up to date; others stay as they are.
write_dotenv() {
  local ours='^(BODEGA_ENV|BODEGA_SECRETS|BODEGA_HASH_[A-Z0-9_]*)='
  plain_directory
  [ -w . ] || [ -f .env ] || writable .
  local text
  text=$(
    [ ! -f .env ] || grep -vE "$ours" .env || true
    printf 'BODEGA_ENV=%s\n' "$env"
    [ -z "$chosen" ] || printf 'BODEGA_SECRETS=%s\n' "$chosen"
    hashes
  )
  [ ! -f .env ] || [ "$text" != "$(cat .env)" ] || return 0
  writable .
  [ ! -f .env ] || cp -p .env .env.new
  printf '%s\n' "$text" >.env.new
  mv -f .env.new .env
  # shellcheck disable=SC2034
  dotenv_written=yes
}

# After a change of the sealed file: unpacks where this host runs it, and names what changed and who mounts it.
finish_change() {
  local changed users key
  changed=$(printf '%s\n' -- "$(sealed_strings "$sealed")" | { printf '%s\n' "$1"; cat; } |
    awk '$0 == "--" { rest = 1; next } !rest { old[$1] = $2; next } { if (old[$1] != $2) print $1; delete old[$1] } END { for (k in old) if (k != "") print k }')
  if [ -z "$changed" ]; then
    say "$sealed: no value changed"
  else
    users=$(for key in $changed; do users_of "$key"; done | sort -u | tr '\n' ' ')
    say "$sealed: changed $(printf '%s' "$changed" | tr '\n' ' ')"
    say "mounted by: $users"
  fi
  write_hashes
  open_sealed "$sealed"
  if runs_here; then
    unpack
    write_dotenv
    say "$plain: $unpacked files written"
  else
    say "not unpacked: this host does not run $env; commit, then there: git pull && make secrets ENV=$env"
  fi
}

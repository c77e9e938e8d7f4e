#!/usr/bin/env bash
# make.sh [ENV]: what is missing of identity, sealed file and keys is made; then the files are unpacked for this host.
# Run again, it changes nothing. UNPACK=no leaves this host out (for a cluster).
. "$(dirname "$0")/lib.sh"
environment "${1:-}"
need sops age-keygen openssl
read_template
lock

if [ ! -f "$sealed" ]; then
  writable .
  writable secrets
fi
has_identity || make_identity

fill_in() {
  local i key value missing=()
  for i in "${!t_key[@]}"; do
    key=${t_key[i]}
    ! is_open "$key" || continue
    generate
    printf -v "new_$key" '%s' "$value"
    missing+=("$key")
  done
  added=("${missing[@]:-}")
}

if [ -f "$sealed" ]; then
  open_sealed "$sealed"
  fill_in
  if [ -n "${added[0]}" ]; then
    draft_sealed
    seal_into "$draft" "${added[@]}"
    publish_sealed
    say "$sealed: added ${added[*]}"
    open_sealed "$sealed"
  fi
  [ "$(sealed_for "$sealed" | sort)" = "$(recipients_of "$env" | sort)" ] ||
    note "$sealed is sealed for others than .sops.yaml says; next: make secrets-rotate WHAT=recipients ENV=$env"
else
  mine=$(own_recipients | head -1)
  [ -n "$mine" ] || die "the recipient of your identity cannot be told" "next: write it into .sops.yaml under $env, then run this again"
  opened=()
  fill_in
  if ! recipients_of "$env" | grep -qxF "$mine"; then
    edit_recipients "$env" add "$mine" "$(id -un)"
    mv -f .sops.yaml.new .sops.yaml
    say ".sops.yaml: you ($mine) may open the secrets of $env"
  fi
  mkdir -p "secrets/$env"
  writable "secrets/$env"
  draft=secrets/$env/.new.bodega.sops.yaml
  scratch "$draft"
  scratch "secrets/$env/.new.error"
  {
    printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: bodega\n  labels:\n    app.kubernetes.io/part-of: bodega\ntype: Opaque\nstringData:\n'
    for key in "${t_key[@]}"; do
      name=new_$key
      printf '  %s: %s\n' "$key" "$(printf '%s' "${!name}" | json_string)"
    done
  } | sops encrypt --filename-override "$sealed" --input-type yaml --output-type yaml >"$draft" 2>"secrets/$env/.new.error" ||
    explain "$sealed" "$(cat "secrets/$env/.new.error")"
  open_sealed "$draft"
  chmod 644 "$draft"
  ln "$draft" "$sealed" || die "$sealed has come into being meanwhile and is kept" "next: run this again"
  rm -f "$draft"
  say "$sealed: made with ${#t_key[@]} keys; commit it with .sops.yaml"
  sealed_now=yes
fi

[ -f "secrets/$env/kustomization.yaml" ] || put_beside kustomization.yaml "apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - bodega.sops.yaml"
write_hashes

if [ "${UNPACK:-yes}" = no ]; then
  say "not unpacked (UNPACK=no); next: make secrets-apply ENV=$env"
  exit 0
fi
unpack
write_dotenv
[ -z "$dotenv_written" ] || say ".env: this host runs $env"
if [ "$unpacked" -gt 0 ]; then
  say "$plain: $unpacked files written"
elif [ -z "$dotenv_written${sealed_now:-}${added[0]:-}" ]; then
  say "secrets of $env: nothing to do"
fi

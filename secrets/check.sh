#!/usr/bin/env bash
# check.sh: every *.sops.* is really sealed and whole, every key of the template is there, and neither a sealed value nor
# an identity nor a private key is in the tree or anywhere in the history. Where no identity is at hand (a pull request
# of a stranger), what needs one is left out aloud.
. "$(dirname "$0")/lib.sh"
read_template
need openssl git
git rev-parse --git-dir >/dev/null 2>&1 || die "this is no git repository" "next: run this in your clone"
faults=0
fault() {
  faults=$((faults + 1))
  printf '✘ %s\n' "$1"
  shift
  [ $# -eq 0 ] || printf '    %s\n' "$@"
}
fine() { printf '✔ %s\n' "$1"; }
left_out() { printf -- '- %s\n' "$1"; }

# Names the lines of a YAML file that stand in the clear where only ciphertext may stand. The forms of sops are exact:
# initialisation vectors of 32 bytes, tags of 16, and of its own part the recipients, a MAC and a version.
looks_sealed() {
  awk '
    function bad(why) { print NR ": " why; faulty = 1 }
    function ciphertext(v,  p) {
      if (v == "\"\"" || v == "null" || v == "{}" || v == "[]") return 1
      if (v !~ /^ENC\[AES256_GCM,data:[A-Za-z0-9+\/]+=*,iv:[A-Za-z0-9+\/]+=,tag:[A-Za-z0-9+\/]+==,type:[a-z]+\]$/) return 0
      split(v, p, ","); return length(p[3]) == 3 + 44 && length(p[4]) == 4 + 24 }
    /^---/ && NR > 1 { bad("a second document"); next }
    /^ *$/ || /^---$/ { next }
    /^[A-Za-z]/ { top = $1; sub(/:.*/, "", top); value = $0; sub(/^[A-Za-z]+:? */, "", value)
      if (top == "sops") has_sops = 1
      if ((top == "data" || top == "stringData") && value != "" && !ciphertext(value)) bad(top " is not sealed")
      next }
    top == "sops" { if ($1 == "mac:") { mac = $0; sub(/^ *mac: */, "", mac) }
      if ($1 == "recipient:" || $2 == "recipient:") recipients++
      if ($1 == "version:") version = $2
      next }
    top == "data" || top == "stringData" {
      value = $0
      if (value ~ /^ *#ENC\[/) next
      if (value ~ /^ *#/) { bad("a comment in the clear"); next }
      if (value !~ /^ +[^ :]+:/) { bad("not KEY: ENC[…]"); next }
      name = $1; sub(/^[^:]*: */, "", value)
      if (!ciphertext(value)) bad(name " a value in the clear") }
    END { if (!has_sops) bad("no sops part at all"); else {
      if (mac == "" || mac == "\"\"" || !ciphertext(mac)) bad("no MAC")
      if (!recipients) bad("no recipients")
      if (version == "") bad("no version of sops") } }' "$1"
}
# A value that only poses as ciphertext often is the text in base64: real ciphertext of this length is never all readable.
disguised() {
  local key string text
  while read -r key string; do
    string=${string#*data:}
    string=${string%%,*}
    [ ${#string} -ge 32 ] || continue
    text=$(printf '%s' "$string" | openssl base64 -d -A 2>/dev/null | tr -d '\000' | LC_ALL=C tr -d '[:print:][:space:]' | wc -c) || text=1
    [ "$text" -gt 0 ] || printf '%s\n' "$key"
  done < <(sealed_strings "$1")
}

# What to search for: "text<TAB>what it is". Keys that are random or that somebody was given; in each form that a leak has.
patterns=''
pattern() { [ ${#1} -lt 8 ] || patterns+="$1"$'\t'"$2"$'\n'; }
gather() {
  local key value name i what part
  for key in "${opened[@]}"; do
    name=value_$key
    value=${!name}
    [ -n "$value" ] || continue
    what="$key of $env"
    if place_of "$key"; then
      case ${t_make[i]} in
        login | fixed) continue ;;
        given)
          # An address or a user name is in many places; a password is not.
          case $value in
            *://*:*@*) part=${value#*://*:} value=${part%%@*} ;;
            *) [[ $key == *PASSWORD* || $key == *SECRET* || $key == *KEY* ]] || continue ;;
          esac
          [ ${#value} -ge 8 ] || { left_out "$what is too short to be searched for"; continue; }
          ;;
        rsa-jwt-keys)
          # Lines of a PEM; its first and its last say little.
          while IFS= read -r part; do [ ${#part} -lt 60 ] || pattern "$part" "$what"; done < <(printf '%b' "$value" | tr '"' '\n')
          ;;
      esac
    fi
    pattern "$value" "$what"
    part=$(printf '%s' "$value" | openssl base64 -A)
    pattern "${part%%=*}" "$what, in base64"
  done
}

files=0
while IFS= read -r -d '' file; do
  [ "${file##*/}" != .sops.yaml ] && [ -f "$file" ] || continue
  files=$((files + 1))
  env=
  [[ $file =~ ^secrets/([^/]+)/ ]] && env=${BASH_REMATCH[1]}
  clear=
  if [[ $file == *.yaml || $file == *.yml ]]; then
    clear=$(looks_sealed "$file")
    posing=$(disguised "$file")
    [ -z "$posing" ] || clear+="${clear:+$'\n'}$posing: readable text posing as ciphertext"
  fi
  if [ -n "$clear" ]; then
    lines=()
    while IFS= read -r line; do lines+=("line $line"); done <<<"$clear"
    fault "$file is not sealed" "${lines[@]}" "next: take the values as known to others (secrets-rotate), and make the file anew with make secrets-edit${env:+ ENV=$env}"
    continue
  fi
  if ! has_identity; then
    left_out "$file has the form of a sealed file; its MAC is not checked, since no identity is here ($identity)"
  else
    need sops age-keygen
    if error=$(sops decrypt "$file" 2>&1 >/dev/null); then
      fine "$file is sealed and whole"
      if [[ $file == secrets/*/bodega.sops.yaml ]]; then
        open_sealed "$file"
        gather
      fi
    elif [[ $error == *'Failed to get the data key'* ]]; then
      left_out "$file is sealed for others than you; its MAC is not checked"
    else
      fault "$( (explain "$file" "$error") 2>&1 | head -1)" "next: git log -p -- $file, git checkout -- $file"
    fi
  fi
  [[ $file == secrets/*/bodega.sops.yaml ]] || continue
  lacking=$(sealed_strings "$file" | awk '{ print $1 }' | { cat; printf '%s\n' -- "${t_key[@]}"; } | awk '$0 == "--" { rest = 1; next } !rest { have[$0]; next } !($0 in have)' | tr '\n' ' ')
  [ -z "$lacking" ] || fault "$file lacks: $lacking" "next: make secrets ENV=$env"
  [ "$(sealed_for "$file" | sort)" = "$(recipients_of "$env" | sort)" ] ||
    fault "$file is sealed for others than .sops.yaml says" "next: make secrets-rotate WHAT=recipients ENV=$env"
done < <(git ls-files -z --cached --others --exclude-standard -- '*.sops.*' | sort -zu)
[ $files -gt 0 ] || left_out "nothing is sealed yet; make secrets makes it"

tracked=$(git ls-files -- secrets/.plain .env '*/keys.txt')
[ -z "$tracked" ] || fault "in git, and must not be: $(printf '%s' "$tracked" | tr '\n' ' ')" "next: git rm --cached -r $(printf '%s' "$tracked" | tr '\n' ' ')"

# Lines of a key itself, not of code that only names its first line.
real_key() {
  tr '\000' ' ' | awk '
    function body(t) { gsub(/\\[nr]|["\047 \t\r]/, "", t); return length(t) >= 40 && substr(t, 1, 40) ~ /^[A-Za-z0-9+\/]+$/ }
    { for (t = $0; i = index(t, "AGE-SECRET-KEY-"); ) { t = substr(t, i + 15); match(t, /^[0-9A-Z-]*/); if (RLENGTH >= 58) { print "an age identity"; exit } } }
    open && body($0) { print "a private key"; exit }
    { open = 0
      for (t = $0; match(t, /-----BEGIN [A-Z ]*PRIVATE KEY-----/); ) { t = substr(t, RSTART + RLENGTH)
        if (body(t)) { print "a private key"; exit }
        open = t ~ /^(\\[nr]|["\047 \t\r])*$/ } }'
}
marks=$'AGE-SECRET-KEY-\nPRIVATE KEY-----'
wanted() {
  printf '%s\n' "$marks"
  printf '%s' "$patterns" | cut -f1
}
# "PLACE<TAB>text" → "PLACE<TAB>what"; the texts themselves are never shown.
name_hits() {
  awk -F '\t' 'FNR == NR { what[$1] = $2; next } $2 in what { print $1 "\t" what[$2]; next } { print $1 "\t!" }' <(printf '%s' "$patterns"; printf 'AGE-SECRET-KEY-\t!\nPRIVATE KEY-----\t!\n') - | sort -u
}

found=0
while IFS=$'\t' read -r place what; do
  if [ "$what" = '!' ]; then what=$(real_key <"$place"); fi
  [ -n "$what" ] || continue
  found=$((found + 1))
  fault "$place holds $what in the clear" "next: take it out of the file, and change it (make secrets-rotate): others may have read it"
done < <(git grep --untracked --no-color --no-line-number --no-column -a -o -z -F -f <(wanted) -- . 2>/dev/null | tr '\000' '\t' | name_hits)
[ $found -gt 0 ] || fine "no secret in the tree"

# All objects of the repository, the unreachable too, as one stream; the place in it says which object.
found=0
objects=$(git cat-file --batch-all-objects --batch-check)
offset_of() {
  awk -F '\t' 'FNR == NR { split($0, o, " "); id[NR] = o[1] " " o[2]; start[NR] = at + 0; at += length($0) + 1 + o[3] + 1; n = NR; next }
    { low = 1; high = n
      while (low < high) { mid = int((low + high + 1) / 2); if (start[mid] <= $1) low = mid; else high = mid - 1 }
      print id[low] "\t" $2 }' <(printf '%s\n' "$objects") - | sort -u
}
while IFS=$'\t' read -r place what; do
  object=${place% *}
  if [ "$what" = '!' ]; then what=$(git cat-file "${place#* }" "$object" | real_key); fi
  [ -n "$what" ] || continue
  found=$((found + 1))
  where=$(git log --all --reflog --find-object="$object" --format='commit %h' --name-only 2>/dev/null | awk 'NF { printf "%s%s", sep, $0; sep = ", " } NR >= 3 { exit }') || true
  [ "${place#* }" = blob ] || where="the ${place#* } ${object:0:12}"
  fault "the history holds $what in the clear: ${where:-object ${object:0:12}, which no branch reaches (git gc --prune=now)}" \
    "next: change it (make secrets-rotate); then, if it has not left this clone, take it out with git filter-repo"
done < <(git cat-file --batch-all-objects --batch --buffer | grep -a -b -o -F -f <(wanted) | sed $'s/:/\t/' | name_hits | offset_of)
[ $found -gt 0 ] || fine "no secret in the history"
[ "$(git rev-parse --is-shallow-repository)" = false ] || left_out "this clone is shallow: only the history that is here was searched (git fetch --unshallow)"
[ -n "$patterns" ] || [ $files -eq 0 ] || left_out "no sealed file could be opened: their values were not searched for"

if command -v gitleaks >/dev/null; then
  if report=$(gitleaks git --no-banner --no-color --redact --log-opts=--all --verbose . 2>/dev/null); then
    fine "gitleaks finds nothing"
  else
    fault "gitleaks finds something" "$(printf '%s\n' "$report" | awk '/^(RuleID|File|Line|Commit):/ { printf "%s %s  ", $1, $2 } /^Fingerprint/ { print "" }' | head -20)" \
      "next: look at each; what opens nothing goes into .gitleaks.toml"
  fi
else
  left_out "gitleaks is not installed: its rules were not tried"
fi

[ $faults -eq 0 ] || die "$faults found"

# shellcheck shell=bash
# What the commands of scripts/ and of secrets/ share; bash ≥ 3.2 and the tools of POSIX.

# from_dotenv NAME: what .env says of a variable, read as Compose reads it: the last line counts, quotes are no part of the
# value, and a comment behind it is none either.
from_dotenv() {
  [ -f .env ] || return 0
  tr -d '\r' <.env | sed -n "s/^[[:space:]]*\(export[[:space:]]\{1,\}\)\{0,1\}$1[[:space:]]*[=:][[:space:]]*//p" | tail -1 |
    sed -e 's/^"\([^"]*\)".*$/\1/' -e t -e "s/^'\([^']*\)'.*\$/\1/" -e t -e 's/^#.*$//' -e 's/[[:space:]]\{1,\}#.*$//' -e 's/[[:space:]]*$//'
}

# The containers run as users of their own, who read these of the tree: a clone made under a umask of 077 hides them. What is
# another's is as he left it.
chmod a+rX scripts/inside scripts/inside/* src/platform/nats.conf 2>/dev/null || true

# shellcheck shell=sh
# Writes the one identity that may use the store, from the mounted key.
set -eu
umask 077
cd /secrets
printf '{"identities":[{"name":"bodega","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":["Admin","Read","Write","List","Tagging"]}]}\n' \
  "$(cat S3_ACCESS_KEY)" "$(cat S3_SECRET_KEY)" >/etc/bodega/s3.json

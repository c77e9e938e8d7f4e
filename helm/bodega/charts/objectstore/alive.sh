wget -q -T 2 -O /dev/null http://127.0.0.1:8333/healthz || exit 1
wget -q -T 2 -O /dev/null --header 'Content-Type: multipart/form-data; boundary=b' --post-data "$(printf -- '--b\r\nContent-Disposition: form-data; name="f"; filename="alive"\r\n\r\nalive\r\n--b--')" http://127.0.0.1:8888/alive && exit
df -P /data | awk 'NR == 2 { exit $4 * 20 >= $2 }'

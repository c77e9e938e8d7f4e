#!/usr/bin/env bash
# Runs in a container of the server's image, for scripts/backup.sh and restore.sh. Commands:
#   dump             facts, a line "dump", then the database in pg_dump's custom format, all of one moment
#   read             reads a dump on standard input to its end
#   rows             which of the shop's tables have rows, as "table rows"
#   may-restore      fails where this login may not make a database, which restore does
#   restore          makes the database NAME_restore from a dump on standard input, and prints its facts
#   adopt            puts NAME_restore in the place of NAME, which must not be in use
#   forget           removes NAME_restore
set -euo pipefail
url=${DATABASE_URL%%\?*}
server=${url%/*}
name=${url##*/}
export PGUSER=$DATABASE_USER PGOPTIONS='-c statement_timeout=0 -c client_min_messages=warning' PGCONNECT_TIMEOUT=10
PGPASSWORD=$(cat /secrets/DATABASE_PASSWORD)
export PGPASSWORD
if [ -s /secrets/DATABASE_CA ]; then export PGSSLMODE=verify-full PGSSLROOTCERT=/secrets/DATABASE_CA; fi
sql=(psql -X -q -A -t -F ' ' -v ON_ERROR_STOP=1)

# Rows are compared as text, in any order; how text looks must not depend on who asks.
settings="set datestyle = iso; set intervalstyle = postgres; set timezone = utc; set extra_float_digits = 1; set bytea_output = hex;"
schemas="'auth', 'products', 'orders', 'notifications', 'bodega'"
facts="select 'server', current_setting('server_version_num')::int / 10000;
select 'migration', schema, name from bodega.migration order by 2, 3;
select format('select ''table'', %L, count(*), coalesce(sum((''x'' || substr(md5(t::text), 1, 15))::bit(60)::bigint), 0) from %I.%I t',
  schemaname || '.' || tablename, schemaname, tablename)
from pg_tables where schemaname in ($schemas) order by schemaname, tablename \\gexec"

case ${1:-} in
  dump)
    # One transaction lends its snapshot to pg_dump, so that the facts are those of the dump while the shop goes on.
    coproc session { "${sql[@]}" "$url"; }
    printf '%s\n' "$settings begin isolation level repeatable read read only;" "select pg_export_snapshot();" >&"${session[1]}"
    read -r -u "${session[0]}" snapshot || { echo 'the database does not answer' >&2; exit 1; }
    printf '%s\n' "$facts" "select 'dump';" >&"${session[1]}"
    while read -r -u "${session[0]}" line; do
      printf '%s\n' "$line"
      [ "$line" != dump ] || break
    done
    [ "${line:-}" = dump ] || exit 1
    # Crunchy PGO puts these into every database of its servers; elsewhere there is neither that role nor that extension.
    operated=$("${sql[@]}" "$url" <<<"select 1 from pg_roles where rolname = '_crunchypgbouncer'")
    pg_dump ${operated:+--exclude-schema=pgbouncer --exclude-extension=pgaudit} --format=custom --compress=6 --no-sync --snapshot="$snapshot" --dbname="$url"
    ;;
  read) pg_restore --file=/dev/null ;;
  rows)
    exists=$("${sql[@]}" "$server/postgres" -v name="$name" <<<"select 1 from pg_database where datname = :'name'")
    [ -n "$exists" ] || exit 0
    "${sql[@]}" "$url" <<<"select format('select %L, count(*) from %I.%I having count(*) > 0', schemaname || '.' || tablename, schemaname, tablename)
      from pg_tables where schemaname in ('auth', 'products', 'orders') order by 1 \\gexec"
    ;;
  may-restore)
    may=$("${sql[@]}" "$server/postgres" <<<"select rolcreatedb or rolsuper from pg_roles where rolname = current_user")
    [ "$may" = t ] || { echo "the login $PGUSER may not make a database; an administrator of the server may let it: alter role \"$PGUSER\" createdb" >&2; exit 1; }
    ;;
  restore)
    "${sql[@]}" "$server/postgres" -v name="$name" <<'END'
select format('create role %I nologin', :'name' || '_' || r) from unnest(array['owner', 'auth', 'products', 'orders', 'notifications']) r
where not exists (select from pg_roles where rolname = :'name' || '_' || r) \gexec
-- Who makes a role may grant it, and gives nothing to it before.
select format('grant %I to current_user', :'name' || '_owner') where not pg_has_role(:'name' || '_owner', 'set') \gexec
select format('drop database if exists %I with (force)', :'name' || '_restore') \gexec
select format('create database %I template template0', :'name' || '_restore') \gexec
END
    known=$("${sql[@]}" "$server/postgres" <<<"select current_setting('transaction_timeout', true) is not null")
    if [ "$known" = t ]; then
      pg_restore --exit-on-error --dbname="${url}_restore"
    else
      # Any pg_restore since 17 begins by setting what a server of 16 does not know.
      pg_restore --file=- | sed '1,/^SET client_encoding/ { /^SET transaction_timeout = 0;$/d; }' | "${sql[@]}" "${url}_restore" >/dev/null
    fi
    "${sql[@]}" "${url}_restore" <<<"$settings -- Of catalogs that are not its own, an owner may not.
set client_min_messages = error; analyze;
$facts"
    ;;
  adopt)
    "${sql[@]}" "$server/postgres" -v name="$name" <<'END'
select format('drop database if exists %I with (force)', :'name' || '_replaced') \gexec
-- A pooler keeps connections that nobody uses. An autovacuum has no user, is not ours to end, and gives way to a rename.
select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = :'name' and usesysid is not null and (pg_has_role(usesysid, 'usage') or pg_has_role('pg_signal_backend', 'usage')) \g /dev/null
begin;
select format('alter database %I rename to %I', datname, :'name' || '_replaced') from pg_database where datname = :'name' \gexec
select format('alter database %I rename to %I', :'name' || '_restore', :'name') \gexec
commit;
select format('drop database if exists %I with (force)', :'name' || '_replaced') \gexec
END
    ;;
  forget) "${sql[@]}" "$server/postgres" -v name="$name" <<<"select format('drop database if exists %I with (force)', :'name' || '_restore') \\gexec" ;;
  *) echo "usage: database.sh dump | read | rows | may-restore | restore | adopt | forget" >&2; exit 2 ;;
esac

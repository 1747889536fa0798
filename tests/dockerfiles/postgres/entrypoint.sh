#!/bin/sh
# Makes an empty data directory a database, with what /init says, and runs the
# command.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync >/dev/null
    pg_ctl --wait --options='-c listen_addresses= -c unix_socket_directories=/tmp' start >/dev/null
    for f in /init/*.sql; do
        echo "init: $(basename "$f")"
        psql --no-psqlrc -q -h /tmp -v ON_ERROR_STOP=1 -f "$f"
    done
    pg_ctl --wait --mode=fast stop >/dev/null
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/tmp

#!/bin/sh
# Prepares an empty data directory, then becomes PostgreSQL. It runs as the
# user postgres, whom the data directory belongs to.
set -eu

bin=$(echo /usr/lib/postgresql/*/bin)
PGDATA=${PGDATA:-/var/lib/postgresql/data}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # Prepare beside, then move: a container killed in between starts over.
    new=$PGDATA/.new
    rm -rf "$new"
    "$bin/initdb" --pgdata="$new" --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    echo "host all all all scram-sha-256" >>"$new/pg_hba.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        echo "CREATE DATABASE \"$POSTGRES_DB\";" |
            "$bin/postgres" --single -D "$new" postgres >/dev/null
    fi
    version=$new/PG_VERSION
    for f in "$new"/*; do
        [ "$f" = "$version" ] || mv "$f" "$PGDATA/"
    done
    mv "$version" "$PGDATA/"
    rmdir "$new"
    chmod 700 "$PGDATA"
fi

exec "$bin/postgres" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"

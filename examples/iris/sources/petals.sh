#!/bin/sh
# Makes a database with the table petals below $DIRECTORY and serves it. Its owner is iris, with the password $PASSWORD.
set -eu
PATH="${PG_BIN:-/usr/lib/postgresql/15/bin}:$PATH"
here=$(dirname "$0")
umask 077

if [ ! -f "$DIRECTORY/seeded" ]; then
  # A container that died half-way starts again on the same volume: from nothing, not on half a table.
  rm -rf "$DIRECTORY/db"
  printf '%s\n' "$PASSWORD" >"$DIRECTORY/password"
  initdb --pgdata="$DIRECTORY/db" --username=iris --pwfile="$DIRECTORY/password" --auth=scram-sha-256 \
    --encoding=UTF8 --locale=C --no-instructions
  rm "$DIRECTORY/password"
  echo 'host all all all scram-sha-256' >>"$DIRECTORY/db/pg_hba.conf"

  # Single-user mode needs neither a client program nor a port: once the port is open, the table is there.
  # With -j a statement ends at a semicolon and an empty line.
  single="postgres --single -D $DIRECTORY/db -c exit_on_error=on"
  echo 'CREATE DATABASE iris' | $single postgres >/dev/null
  { cat "$here/petals.sql"; echo; } | $single -j iris >/dev/null
  touch "$DIRECTORY/seeded"
fi

# exec: the server itself gets the signal that ends the Pod.
exec postgres -D "$DIRECTORY/db" -c listen_addresses="${LISTEN:-*}" -c unix_socket_directories="$DIRECTORY" \
  -c shared_buffers=16MB -c max_connections=20 -c fsync=off

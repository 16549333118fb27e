#!/bin/sh
# Run once by the postgres image, on an empty data folder: a database and a role for each service. No service can so
# much as connect to another's.
set -eu

make_database() {
    psql --set=ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --set=name="$1" --set=password="$2" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

make_database cualify_api "$API_DB_PASSWORD"
make_database cualify_dialer "$DIALER_DB_PASSWORD"
make_database cualify_billing "$BILLING_DB_PASSWORD"
make_database cualify_webhook_dispatcher "$WEBHOOK_DISPATCHER_DB_PASSWORD"

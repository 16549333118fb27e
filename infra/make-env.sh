#!/bin/sh
# Prints what compose.yaml needs: a password for each database, tokens and keys, each made anew. Run it once and keep the
# result: another KEY_PEPPER voids every API key, and without SECRETS_KEY no webhook can be signed any more.
set -eu
umask 077

secret() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

for name in POSTGRES_PASSWORD API_DB_PASSWORD DIALER_DB_PASSWORD BILLING_DB_PASSWORD WEBHOOK_DISPATCHER_DB_PASSWORD \
    ADMIN_TOKEN INTERNAL_TOKEN CALLBACK_TOKEN GRAFANA_PASSWORD; do
    echo "$name=$(secret 24)"
done
for name in KEY_PEPPER CALLEE_TOKEN_KEY SECRETS_KEY; do
    echo "$name=$(secret 32)"
done
cat <<END
# A real account instead of the simulator: its key here, BOLNA_URL=https://api.bolna.ai, BOLNA_IS_SIMULATOR=false, and
# DIALER_PUBLIC_URL: where Bolna reaches the dialer.
BOLNA_API_KEY=bn-$(secret 16)
END

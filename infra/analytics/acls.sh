#!/bin/sh
# What the principal of analysts may do: read the three analytics topics, and nothing else. The topics that carry phone
# numbers, transcripts and customers' data (call.requests, call.artifacts, customer.events) are not among them.
#
#   BOOTSTRAP=kafka:9092 PRINCIPAL=User:analytics sh infra/analytics/acls.sh --command-config admin.properties
set -eu

for topic in call.events wallet.events webhook.events; do
    kafka-acls.sh --bootstrap-server "$BOOTSTRAP" "$@" --add --allow-principal "$PRINCIPAL" \
        --operation Read --operation Describe --topic "$topic"
done
kafka-acls.sh --bootstrap-server "$BOOTSTRAP" "$@" --add --allow-principal "$PRINCIPAL" \
    --operation Read --group analytics --group clickhouse

-- A customer's intention to pay. It is written before the gateway is asked, under the receipt that the gateway repeats.
CREATE TABLE payment_orders (
    receipt      uuid PRIMARY KEY,
    org_id       uuid NOT NULL,
    request_id   text NOT NULL,
    amount_paise bigint NOT NULL,
    order_id     text,
    payment_id   text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    paid_at      timestamptz,
    CONSTRAINT a_request_makes_one_order UNIQUE (org_id, request_id),
    CONSTRAINT an_order_of_the_gateway_is_of_one_request UNIQUE (order_id),
    CONSTRAINT an_order_is_of_at_least_a_rupee CHECK (amount_paise >= 100),
    CONSTRAINT what_was_paid_has_a_payment CHECK ((payment_id IS NULL) = (paid_at IS NULL))
);

-- Signed payments that could not be credited: of no order of ours, of another amount or currency. Somebody has to look.
CREATE TABLE payment_alarms (
    payment_id   text NOT NULL,
    why          text NOT NULL,
    order_id     text,
    amount_paise bigint,
    currency     text,
    body         text NOT NULL,
    seen_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (payment_id, why),
    CONSTRAINT reason_of_an_alarm_is_known
        CHECK (why IN ('unknown_order', 'amount_differs', 'currency_differs', 'paid_twice', 'contradicted'))
);

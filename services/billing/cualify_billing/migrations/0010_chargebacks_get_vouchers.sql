-- Advances that went back by a chargeback, or by the correction of a payment, before such got a refund voucher: without one
-- an invoice would go on adjusting them.
INSERT INTO documents_due (transfer)
SELECT transfers.name
FROM transfers
JOIN refunds ON transfers.name = 'refund:' || refunds.id
WHERE (transfers.kind = 'chargeback' OR (transfers.kind = 'correction' AND refunds.payment_id IS NOT NULL))
    AND NOT EXISTS (SELECT FROM documents WHERE documents.subject = transfers.name)
ORDER BY transfers.created_at, transfers.name
ON CONFLICT (transfer) DO NOTHING;

<?php // A receiver that verifies Cualify's signature: CUALIFY_SECRET=… php -S 127.0.0.1:8080 receiver.php
$body = file_get_contents('php://input');
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$at = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '0';
$mine = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$at.$body", getenv('CUALIFY_SECRET'), true));
$genuine = false;
foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $one) {
    $genuine = $genuine || hash_equals($mine, $one);
}
$good = $genuine && abs(time() - (int) $at) < 300;
http_response_code($good ? 204 : 401); // Answer first, then work; remember the webhook-id: it may come twice.
if ($good) {
    error_log('event ' . json_decode($body)->type . ' ' . $id);
}

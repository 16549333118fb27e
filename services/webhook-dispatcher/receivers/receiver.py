# A receiver that verifies Cualify's signature. Standard library only: CUALIFY_SECRET=… PORT=8080 python receiver.py
import base64, hashlib, hmac, json, os, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(os.environ["CUALIFY_SECRET"].encode(), signed, hashlib.sha256).digest()
        mine, given = "v1," + base64.b64encode(digest).decode(), self.headers["webhook-signature"].split()
        fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) < 300
        good = fresh and any(hmac.compare_digest(mine, one) for one in given)
        self.send_response(204 if good else 401)
        self.end_headers()  # Answer first, then work; you may get an event twice: remember its webhook-id.
        if good:
            print("event", json.loads(body)["type"], self.headers["webhook-id"], flush=True)

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Receiver).serve_forever()

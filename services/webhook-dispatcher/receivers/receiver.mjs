// A receiver that verifies Cualify's signature. Node alone: CUALIFY_SECRET=… PORT=8080 node receiver.mjs
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts), id = request.headers["webhook-id"], at = request.headers["webhook-timestamp"];
  const signed = createHmac("sha256", process.env.CUALIFY_SECRET).update(`${id}.${at}.`).update(body).digest("base64");
  const mine = Buffer.from(`v1,${signed}`);
  const given = (request.headers["webhook-signature"] ?? "").split(" ").map((one) => Buffer.from(one));
  const genuine = given.some((one) => one.length === mine.length && timingSafeEqual(one, mine));
  const good = genuine && Math.abs(Date.now() / 1000 - Number(at)) < 300;
  response.writeHead(good ? 204 : 401).end(); // Answer first, then work; remember the webhook-id: it may come twice.
  if (good) console.log("event", JSON.parse(body).type, id);
}).listen(Number(process.env.PORT), "127.0.0.1");

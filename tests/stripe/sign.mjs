// Signs what comes on standard input as Stripe's own library for Node does: node sign.mjs SECRET TIME

import fs from "node:fs";
import Stripe from "stripe";

const [secret, timestamp] = process.argv.slice(-2);
const payload = fs.readFileSync(0, "utf8");
console.log(new Stripe("sk_test_node").webhooks.generateTestHeaderString({ payload, secret, timestamp: Number(timestamp) }));

// Holds objects of the fake to the types of Stripe's library for Node: node shapes.mjs OBJECTS
//
// OBJECTS is a file with a JSON list. Each becomes a literal of its type in a program, and the TypeScript compiler says
// which fields are unknown, missing or of another type, and which words are none of those that the library lists.

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const types = {
  "billing_portal.session": "BillingPortal.Session",
  "checkout.session": "Checkout.Session",
  customer: "Customer",
  event: "Event",
  invoice: "Invoice",
  item: "LineItem",
  line_item: "InvoiceLineItem",
  payment_method: "PaymentMethod",
  plan: "Plan",
  price: "Price",
  product: "Product",
  subscription: "Subscription",
  subscription_item: "SubscriptionItem",
  subscription_schedule: "SubscriptionSchedule",
  "test_helpers.test_clock": "TestHelpers.TestClock",
  webhook_endpoint: "WebhookEndpoint",
};

const here = path.dirname(fileURLToPath(import.meta.url));
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "shapes-"));
process.on("exit", () => fs.rmSync(folder, { recursive: true }));

// The library's types, but that words it does not list are none: it lets any string be one, for words to come.
const library = path.join(folder, "stripe");
fs.cpSync(path.join(here, "node_modules/stripe/esm"), library, {
  recursive: true,
  filter: (name) => fs.statSync(name).isDirectory() || name.endsWith(".d.ts"),
});
const shared = path.join(library, "shared.d.ts");
const strict = fs.readFileSync(shared, "utf8").replace(/(type OtherString = ).*;/, "$1never;");
if (!strict.includes("type OtherString = never;")) throw new Error("the library has no OtherString any more");
fs.writeFileSync(shared, strict);

const literal = (value) =>
  // Decimals are a class of the library's, made from the text on the wire.
  JSON.stringify(value, (name, inner) => (/_decimal$/.test(name) && typeof inner === "string" ? `decimal:${inner}` : inner))
    .replace(/"decimal:[^"]*"/g, "decimal");
const lines = [
  `import Stripe from "./stripe/stripe.esm.node.js";`,
  `declare const decimal: NonNullable<Stripe.Price["unit_amount_decimal"]>;`,
];
const objects = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const add = (value) => {
  const type = types[value.object];
  if (!type) throw new Error(`no type is known for ${value.object}`);
  const deleted = value.deleted ? `Stripe.Deleted${type}` : `Stripe.${type}`;
  lines.push(`export const object${lines.length}: ${deleted} = ${literal(value)};`);
};
for (const value of objects) {
  if (value.object === "event") {
    add(value.data.object);
    // By its type an event has the object of that type, which the line above has been held to.
    const { data, ...rest } = value;
    lines.push(`export const object${lines.length}: Omit<Stripe.EventBase, "data"> = ${literal(rest)};`);
    lines.push(`export const object${lines.length}: (keyof Stripe.Event.Data)[] = ${JSON.stringify(Object.keys(data))};`);
  } else {
    add(value);
  }
}
const statuses = new Set(objects.filter((one) => one.object === "subscription").map((one) => one.status));
lines.push(`export const statuses: Record<Stripe.Subscription.Status, 1> = {${[...statuses].map((one) => `${one}: 1`)}};`);
fs.writeFileSync(path.join(folder, "check.ts"), lines.join("\n"));
fs.writeFileSync(path.join(folder, "package.json"), `{"type": "module"}`);
fs.symlinkSync(path.join(here, "node_modules"), path.join(folder, "node_modules"));
const options = "--noEmit --strict --skipLibCheck --target es2022 --module nodenext --moduleResolution nodenext --types node";
try {
  const compiler = path.join(here, "node_modules/typescript/bin/tsc");
  execFileSync("node", [compiler, ...options.split(" "), "check.ts"], { cwd: folder, encoding: "utf8" });
} catch (error) {
  const found = String(error.stdout || error).split("\n");
  const shown = found.map((line) => line.replace(/^check\.ts\((\d+),.*?\): /, (_, n) => `${lines[n - 1].match(/: ([\w.]*)/)[1]}: `));
  console.error([...new Set(shown)].join("\n"));
  process.exit(1);
}
console.log(`ok: ${objects.length} objects of ${new Set(objects.map((one) => one.object)).size} kinds`);

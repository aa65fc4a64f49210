// What the generated TypeScript client does against a live service. `tests/it/sdks.rs` runs it, and answers on its standard input
// what a mail says.
import assert from "node:assert/strict";
import { createInterface } from "node:readline/promises";

import {
  createUser,
  deleteUser,
  getMe,
  getUser,
  listUsers,
  login,
  logout,
  refreshSession,
  register,
  updateUser,
  verifyEmail,
} from "tenantry-client";
import type { ErrorCode, ErrorResponse, ListedUserListResponse } from "tenantry-client";
import { createClient } from "tenantry-client/client";

const baseUrl = process.env.TENANTRY_URL!;
const tenant = process.env.TENANTRY_TENANT!;
const email = "ada@acme.example";
const password = "Correct-Horse-1";
let token: string | undefined;
const client = createClient({ baseUrl, auth: () => token });

/** That an answer is this error, as a typed value. */
function failed(
  answer: { error?: ErrorResponse; response?: Response },
  status: number,
  code: ErrorCode,
): ErrorResponse {
  assert.ok(answer.error, `${code} is an error`);
  assert.deepEqual(
    [answer.response?.status, answer.error.error.status_code, answer.error.error.code],
    [status, status, code],
  );
  return answer.error;
}

/** What an answer holds that is a success. */
function ok<T>(answer: { data?: T; error?: ErrorResponse }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

async function signUp() {
  const made = ok(
    await register({
      client,
      body: { tenant: { name: "Acme", slug: tenant }, email, password, name: "Ada Lovelace" },
    }),
  );
  assert.equal(made.data.user.email_verified, false);
  console.log(`verify ${made.data.tenant.id} ${email}`);
  const lines = createInterface({ input: process.stdin });
  const mailed = await lines[Symbol.asyncIterator]().next();
  lines.close();
  const verified = ok(await verifyEmail({ client, body: { token: String(mailed.value) } }));
  assert.equal(verified.data.email_verified, true);
}

async function signIn() {
  failed(
    await login({ client, body: { tenant, email, password: "Wrong-Horse-1" } }),
    401,
    "invalid_credentials",
  );
  const begun = ok(await login({ client, body: { tenant, email, password } })).data;
  const renewed = ok(
    await refreshSession({ client, body: { refresh_token: begun.refresh_token } }),
  ).data;
  assert.notEqual(renewed.refresh_token, begun.refresh_token);
  token = renewed.token;
  return renewed.refresh_token;
}

async function makeUsers() {
  const ids: string[] = [];
  for (let n = 0; n < 5; n++) {
    const made = await createUser({
      client,
      body: { email: `user${n}@acme.example`, name: "Grace Hopper" },
    });
    assert.equal(made.response?.headers.get("ETag"), '"1"');
    ids.push(ok(made).data.id);
  }
  failed(
    await createUser({ client, body: { email: "user0@acme.example", name: "Grace Hopper" } }),
    409,
    "email_taken",
  );
  const wrong = failed(
    await createUser({
      client,
      body: { email: "nobody", name: "Grace Hopper", password: "too-simple" },
    }),
    422,
    "validation_failed",
  );
  const fields = new Set(wrong.error.errors.map((error) => error.field));
  assert.deepEqual([...fields].sort(), ["/email", "/password"]);
  return ids;
}

async function oneUser(id: string) {
  const read = await getUser({ client, path: { id } });
  const etag = read.response?.headers.get("ETag") ?? "";
  const user = ok(read).data;
  assert.deepEqual([user.name, user.pending_email], ["Grace Hopper", null]);
  const same = await getUser({ client, path: { id }, headers: { "If-None-Match": etag } });
  assert.equal(same.response?.status, 304);
  const body = { name: "Grace Murray Hopper" };
  const changed = await updateUser({ client, path: { id }, headers: { "If-Match": etag }, body });
  assert.deepEqual(
    [ok(changed).data.name, changed.response?.headers.get("ETag")],
    [body.name, '"2"'],
  );
  failed(
    await updateUser({ client, path: { id }, headers: { "If-Match": etag }, body }),
    412,
    "version_mismatch",
  );
  assert.equal((await deleteUser({ client, path: { id } })).response?.status, 204);
  failed(await getUser({ client, path: { id } }), 404, "user_not_found");
}

async function everyPage(ids: string[]) {
  const page = (cursor: string) => listUsers({ client, query: { cursor, limit: 2 } });
  const found = new Set<string>();
  let parts = 0;
  let cursor: string | null = "first";
  while (cursor !== null) {
    const { data, pagination }: ListedUserListResponse = ok(await page(cursor));
    parts += 1;
    for (const user of data) {
      assert.ok(!found.has(user.id), "nobody comes twice");
      found.add(user.id);
    }
    assert.ok("next_cursor" in pagination);
    cursor = pagination.next_cursor;
  }
  assert.deepEqual([found.size, parts], [5, 3]);
  assert.ok(ids.every((id) => found.has(id)));
}

await signUp();
const refreshToken = await signIn();
const [first, ...others] = await makeUsers();
await oneUser(first!);
await everyPage(others);
assert.equal(
  (await logout({ client, body: { refresh_token: refreshToken } })).response?.status,
  204,
);
failed(await getMe({ client }), 401, "unauthenticated");
console.log("done");

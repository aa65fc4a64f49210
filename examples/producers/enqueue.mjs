// Enqueues a job in the transaction that makes it true, with pg.
//
//     node enqueue.mjs TENANT USER [commit|rollback]      (DATABASE_URL in the environment)
//
// The login may become tenantry_app, and nothing else (docs/jobs.md).

import pg from "pg";

/** Within the transaction that is open; the job exists when that commits. */
async function enqueue(client, tenant, kind, payload) {
  const { rows } = await client.query(
    "select tenantry.enqueue_job(kind => $1, payload => $2, tenant_id => $3) as id",
    [kind, payload, tenant],
  );
  return rows[0].id;
}

const [tenant, user, end = "commit"] = process.argv.slice(2);
const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
try {
  await client.query("begin");
  await client.query(
    "select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', $1, true)",
    [tenant],
  );
  // Your own change goes here: both happen, or neither.
  const id = await enqueue(client, tenant, "verify_email", { user_id: user });
  await client.query(end);
  console.log(id);
} catch (error) {
  // A wrong kind or payload is refused here, where it is written.
  console.error(`refused: ${error.message}`);
  process.exitCode = 1;
} finally {
  await client.end();
}

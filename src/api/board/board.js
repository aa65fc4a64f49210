// Lists jobs through the API with the token that is typed in, which is kept nowhere but in this page. A super administrator
// sees all tenants' jobs, an administrator those of their own.
"use strict";

const $ = (selector) => document.querySelector(selector);
let token = "";
let all = true;
let cursor = null;

async function ask(path, method = "GET") {
  const query = all ? (path.includes("?") ? "&" : "?") + "all_tenants=true" : "";
  const response = await fetch(`/api/v1/jobs${path}${query}`, {
    method,
    headers: { Authorization: `Bearer ${token}` },
  });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

/** Every text goes in as text: errors and payloads may hold anything. */
function cells(values) {
  const row = document.createElement("tr");
  for (const value of values) {
    const cell = document.createElement("td");
    if (value instanceof Node) cell.append(value);
    else cell.textContent = value ?? "";
    row.append(cell);
  }
  return row;
}

function say(text, wrong = false) {
  $("#said").textContent = text;
  $("#said").className = wrong ? "wrong" : "";
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  }
}

async function count() {
  const { data } = await ask("/counts");
  const rows = data.counts.map((one) => cells([one.kind, one.state, one.jobs, one.oldest_run_at]));
  $("#counts tbody").replaceChildren(...rows);
}

async function list(more) {
  const query = new URLSearchParams({ limit: "50" });
  if ($("#state").value) query.set("state", $("#state").value);
  if ($("#kind").value) query.set("kind", $("#kind").value.trim());
  if (more && cursor) query.set("cursor", cursor);
  const { data, pagination } = await ask(`?${query}`);
  cursor = pagination.next_cursor;
  $("#more").hidden = !cursor;
  if (!more) $("#jobs tbody").replaceChildren();
  for (const job of data) $("#jobs tbody").append(row(job));
}

function row(job) {
  const actions = document.createElement("span");
  const button = (text, work) => {
    const button = document.createElement("button");
    button.textContent = text;
    button.addEventListener("click", () => guarded(work));
    actions.append(button);
  };
  button("Show", () => show(job.id));
  if (["failed", "dead", "cancelled"].includes(job.state)) button("Retry", () => act(job.id, "retry"));
  if (["pending", "failed", "running"].includes(job.state)) button("Cancel", () => act(job.id, "cancel"));
  const made = cells([
    job.created_at, job.kind, job.state, `${job.attempts}/${job.max_attempts}`, job.run_at, job.last_error, actions,
  ]);
  made.className = job.state;
  return made;
}

async function show(id) {
  const { data } = await ask(`/${id}`);
  $("#job h2").textContent = `${data.kind} ${data.id}`;
  $("#job pre").textContent = JSON.stringify(data, null, 2);
  $("#job").hidden = false;
}

async function act(id, action) {
  const { data } = await ask(`/${id}/${action}`, "POST");
  say(`Job ${id} is ${data.state}.`);
  await Promise.all([count(), list(false)]);
}

async function begin() {
  token = $("#token").value.trim();
  all = true;
  try {
    await count();
  } catch {
    // Not a super administrator: one's own tenant, or the reason why not.
    all = false;
    await count();
  }
  say(all ? "Jobs of all tenants." : "Jobs of your tenant.");
  $("main").hidden = false;
  await list(false);
}

$("#sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(async () => {
    $("main").hidden = false;
    await begin();
  });
});
$("#filter").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(() => list(false));
});
$("#more").addEventListener("click", () => guarded(() => list(true)));

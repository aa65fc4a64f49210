// Signs a tenant up and invites a team, with fetch alone.
//
//     node invite-team.js https://accounts.example.org acme ada@acme.example PASSWORD grace@acme.example ...
//
// Node 22.18 and newer run this file as it is; for others `npm ci && npx tsc` makes invite-team.js of it.

interface User {
  id: string;
  email: string;
  role: "user" | "admin" | "super_admin";
  version: number;
}

interface SignedUp {
  tenant: { id: string; slug: string };
  user: User;
}

interface Session {
  token: string;
  refresh_token: string;
  expires_in: number;
}

interface Invitation {
  email: string;
  expires_at: string;
}

interface Failure {
  code: string;
  message: string;
  request_id: string;
  errors?: { field: string; code: string; message: string }[];
}

/** What the API refused, with its reason. */
class Refused extends Error {
  readonly status: number;

  constructor(status: number, { message, code, request_id, errors = [] }: Failure) {
    const fields = errors.map((wrong) => `${wrong.field}: ${wrong.message}`);
    super([`${message} (${code}, request ${request_id})`, ...fields].join("\n  "));
    this.status = status;
  }
}

class Tenantry {
  readonly url: string;
  token = "";

  constructor(url: string) {
    this.url = url;
  }

  /** POSTs once, however often it has to be sent: lost answers are asked for again by the same key. */
  async post<T>(path: string, body: unknown, attempts = 3): Promise<T> {
    const headers: Record<string, string> = {
      "Content-Type": "application/json",
      "Idempotency-Key": crypto.randomUUID(),
    };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    for (let attempt = 1; ; attempt += 1) {
      try {
        const request = { method: "POST", headers, body: JSON.stringify(body), signal: AbortSignal.timeout(10_000) };
        const response = await fetch(`${this.url}/api/v1${path}`, request);
        const answer = (await response.json()) as { success: boolean; data: T; error: Failure };
        if (response.ok) return answer.data;
        throw new Refused(response.status, answer.error);
      } catch (error) {
        // Wrong is wrong the next time, too; busy or cut off is not.
        const passes = !(error instanceof Refused) || error.status === 503;
        if (!passes || attempt === attempts) throw error;
        await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** attempt));
      }
    }
  }
}

const [url, slug, email, password, ...team] = process.argv.slice(2);
const api = new Tenantry(url);
try {
  const { tenant } = await api.post<SignedUp>("/auth/register", {
    tenant: { name: slug, slug }, email, password, name: email.split("@")[0],
  });
  const session = await api.post<Session>("/auth/login", { tenant: slug, email, password });
  api.token = session.token;
  const { invitations } = await api.post<{ invitations: Invitation[] }>("/invitations", { emails: team, role: "user" });
  console.log(`tenant ${tenant.id}: ${email} has invited ${invitations.map((invited) => invited.email).join(", ")}`);
} catch (error) {
  console.error(error instanceof Refused ? error.message : error);
  process.exitCode = 1;
}

export {};

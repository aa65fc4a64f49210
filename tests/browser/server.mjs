// `tenantry dev` in a folder of its own: the program, its servers, a fake Stripe, and mails that are caught in a folder.
import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

export class Server {
  static async start(program) {
    const folder = await mkdtemp(join(tmpdir(), 'tenantry-browser-'));
    const address = `127.0.0.1:${await freePort()}`;
    const env = { ...process.env, LISTEN: address, LOG_FORMAT: 'pretty', RUST_LOG: 'warn' };
    for (const setting of ['DATABASE_URL', 'REDIS_URL', 'STRIPE_SECRET_KEY', 'SMTP_URL', 'PUBLIC_URL', 'APP_URL']) {
      delete env[setting];
    }
    const child = spawn(program, ['dev'], { cwd: folder, env, stdio: ['ignore', 'pipe', 'inherit'] });
    const server = new Server(folder, child, `http://${address}`);
    for await (const line of createInterface({ input: child.stdout })) {
      if (line.includes("token='")) server.token = line.split("'")[1];
      if (line.includes('DATABASE_URL=')) return server;
    }
    throw new Error('tenantry dev has ended');
  }

  constructor(folder, child, url) {
    Object.assign(this, { folder, child, url });
    this.ended = new Promise((resolve) => child.once('exit', resolve));
  }

  async stop() {
    this.child.kill('SIGINT');
    await this.ended;
    await rm(this.folder, { recursive: true });
  }

  /// Asks the API; with the administrator's token unless another one is given.
  async api(method, path, body, token = this.token) {
    const response = await fetch(`${this.url}/api/v1${path}`, {
      method,
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      body: body && JSON.stringify(body),
    });
    return { status: response.status, ...(await response.json()) };
  }

  /// The link in the latest mail to somebody; waits for it.
  async link(to) {
    const folder = join(this.folder, '.tenantry/mail');
    return eventually(`a mail to ${to}`, async () => {
      // One whose name begins with a dot is being written.
      const all = await readdir(folder).catch(() => []);
      const files = all.filter((name) => !name.startsWith('.')).sort().reverse();
      for (const file of files) {
        const mail = await readFile(join(folder, file), 'utf8');
        // Long lines are folded by "=" in quoted-printable.
        const text = mail.replaceAll('=\r\n', '').replaceAll('=3D', '=');
        if (text.includes(`To: ${to}\r\n`)) return text.match(/http:\/\/\S+\?token=[\w-]+/)?.[0];
      }
    });
  }
}

/// Waits for a fact that is bound to become true, and returns it.
export async function eventually(what, fact) {
  for (const end = Date.now() + 20_000; Date.now() < end; await pause(20)) {
    const found = await fact();
    if (found) return found;
  }
  throw new Error(`there is never ${what}`);
}

function freePort() {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

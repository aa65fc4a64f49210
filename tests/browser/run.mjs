// The pages that the program serves, in a real browser: Swagger UI, what links in mails lead to, the board of jobs, the fake
// Stripe. Each fact has a context of its own, in which the browser must have nothing to complain of: no error on the console,
// no violation of a policy, no request to another origin than it is meant to ask.
//
//     scripts/browser
//
// Closes with "N passed, N failed".
import assert from 'node:assert/strict';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { chromium } from 'playwright-core';
import { Server, eventually } from './server.mjs';

const [program, screenshot] = process.argv.slice(2);
const PASSWORD = 'Correct-Horse-1';
const BROWSERS = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
const ON_A_MAC = '/Applications/Chromium.app/Contents/MacOS';

const facts = {
  async 'one signs in, authorises and asks in Swagger UI'({ page, server }) {
    await page.goto(`${server.url}/docs`);
    const signedIn = await tryOut(page, 'Authentication-login', {
      tenant: 'demo', email: 'admin@example.org', password: 'Tenantry-Demo-1',
    });
    assert.equal(signedIn.status, 200);
    await authorise(page, signedIn.body.data.token);
    const me = await tryOut(page, 'Users-getMe');
    assert.deepEqual([me.status, me.body.data.email], [200, 'admin@example.org']);
    await page.setViewportSize({ width: 1100, height: 1150 });
    await page.locator('#operations-Users-getMe').evaluate((operation) => operation.scrollIntoView());
    await page.screenshot({ path: screenshot });
  },

  async 'nobody is signed in there any more after a reload'({ page, server }) {
    await page.goto(`${server.url}/docs`);
    await authorise(page, server.token);
    const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
    assert.equal(stored, '[{},{},""]');
    await page.reload();
    await page.locator('.btn.authorize.unlocked').waitFor();
  },

  async 'an API key does as well'({ page, server }) {
    const key = await server.api('POST', '/api-keys', { name: 'browser', scopes: ['users:read'] });
    assert.equal(key.status, 201, JSON.stringify(key));
    await page.goto(`${server.url}/docs`);
    await authorise(page, key.data.key);
    const users = await tryOut(page, 'Users-listUsers');
    assert.deepEqual([users.status, users.body.data.length], [200, 10]);
  },

  async 'a link leads to an operation'({ page, server }) {
    await page.goto(`${server.url}/docs#/Users/getMe`);
    await page.locator('#operations-Users-getMe.is-open').waitFor();
    assert.equal(await page.title(), 'Tenantry API');
    const icon = await page.locator('link[rel=icon]').getAttribute('href');
    assert.equal((await page.request.get(`${server.url}${icon}`)).headers()['content-type'], 'image/svg+xml');
  },

  async 'Swagger UI fits a telephone'({ page, server }) {
    await page.setViewportSize({ width: 400, height: 800 });
    await page.goto(`${server.url}/docs`);
    await tryOut(page, 'Authentication-login', { tenant: 'demo', email: 'nobody@example.org', password: 'x' }, 401);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 400);
  },

  async 'the link of a sign-up verifies when its button is pressed, and not by being opened'({ page, server }) {
    const { admin } = await signUp(server);
    const link = await server.link(admin.email);
    for (let scans = 0; scans < 3; scans += 1) assert.equal((await fetch(link)).status, 200);
    assert.equal((await signIn(server, admin)).data.user.email_verified, false);
    await page.goto(link);
    await page.getByRole('button', { name: 'Verify my address' }).click();
    await page.getByText('Your email address is verified').waitFor();
    assert.equal((await signIn(server, admin)).data.user.email_verified, true);
    await expecting(page, 422, async () => {
      await page.goto(link);
      await page.getByRole('button').click();
      await page.getByText('This link does not work any more').waitFor();
    });
  },

  async 'who forgot a password chooses another one'({ page, server }) {
    const { admin } = await signUp(server);
    await server.link(admin.email);
    const { tenant, email } = admin;
    assert.equal((await server.api('POST', '/auth/forgot-password', { tenant, email })).status, 202);
    await page.goto(await eventually('a link to choose another', async () => {
      const link = await server.link(email);
      return link.includes('/reset-password') && link;
    }));
    await expecting(page, 422, async () => {
      await page.getByLabel('Your new password').fill('all-lower-case-1');
      await page.getByRole('button').click();
      await page.getByRole('alert').waitFor();
    });
    await page.getByLabel('Your new password').fill('Another-Horse-2');
    await page.getByRole('button').click();
    await page.getByText('Sign in with your new password').waitFor();
    assert.equal((await signIn(server, admin)).status, 401);
    assert.equal((await signIn(server, { ...admin, password: 'Another-Horse-2' })).status, 200);
  },

  async 'who is invited joins'({ page, server }) {
    const { admin, token } = await signUp(server);
    const email = `guest-of-${admin.email}`;
    const invited = await server.api('POST', '/invitations', { emails: [email], role: 'user' }, token);
    assert.equal(invited.status, 201, JSON.stringify(invited));
    await page.goto(await server.link(email));
    await page.getByLabel('Your name').fill('Grace <b>Hopper</b>');
    await page.getByLabel('Your new password').fill(PASSWORD);
    await page.getByRole('button', { name: 'Join' }).click();
    await page.getByText('You can sign in now').waitFor();
    const guest = await signIn(server, { ...admin, email });
    assert.deepEqual([guest.status, guest.data.user.name], [200, 'Grace <b>Hopper</b>']);
  },

  async 'the board shows the jobs of a tenant'({ page, server }) {
    const { admin, token } = await signUp(server);
    await server.link(admin.email);
    await page.goto(`${server.url}/jobs`);
    await page.getByLabel('Access token').fill(token);
    // It asks for those of all tenants first, which an administrator of one may not see.
    await expecting(page, 403, async () => {
      await page.getByRole('button', { name: 'Show' }).click();
      await page.locator('#jobs tbody').getByText('verify_email').first().waitFor();
    });
  },

  async 'one subscribes on the pages of the fake Stripe, and comes back'({ page, server, allow }) {
    const { token } = await signUp(server);
    const back = `${server.url}/docs`;
    const order = { plan: 'pro', success_url: back, cancel_url: back };
    const session = await server.api('POST', '/billing/checkout-sessions', order, token);
    assert.equal(session.status, 201, JSON.stringify(session));
    allow(new URL(session.data.url).origin);
    await page.goto(session.data.url);
    await page.locator('button[value=pay]').click();
    await page.waitForURL(back);
    await eventually('a subscription', async () => {
      const { data } = await server.api('GET', '/subscriptions', undefined, token);
      return data.entitlement.plan === 'pro';
    });
  },
};

/// A tenant of one's own, and its administrator.
async function signUp(server) {
  signUp.count = (signUp.count ?? 0) + 1;
  const slug = `browser-${signUp.count}`;
  const admin = { tenant: slug, email: `ada@${slug}.example.org`, password: PASSWORD };
  const { email, password } = admin;
  const made = await server.api('POST', '/auth/register', { tenant: { name: 'Acme', slug }, email, password, name: 'Ada' });
  assert.equal(made.status, 201, JSON.stringify(made));
  return { admin, token: (await signIn(server, admin)).data.token };
}

function signIn(server, { tenant, email, password }) {
  return server.api('POST', '/auth/login', { tenant, email, password });
}

/// Tries an operation in Swagger UI; what it shows of the answer.
async function tryOut(page, id, body, status = 200) {
  const operation = page.locator(`#operations-${id}`);
  await operation.locator('.opblock-summary-control').click();
  await operation.getByRole('button', { name: 'Try it out' }).click();
  if (body) await operation.locator('textarea.body-param__text').fill(JSON.stringify(body));
  const shown = operation.locator('.live-responses-table');
  await expecting(page, status, async () => {
    await operation.getByRole('button', { name: 'Execute' }).click();
    await shown.waitFor();
  });
  // The rows of large answers are shown in parts, and the text of all of them is the answer.
  const [code, text] = [await shown.locator('.response-col_status').last().innerText(), await answerIn(shown)];
  return { status: Number.parseInt(code, 10), body: JSON.parse(text) };
}

async function answerIn(shown) {
  const answer = shown.locator('.response-col_description .highlight-code code').first();
  return (await answer.textContent()).trim();
}

async function authorise(page, credential) {
  await page.locator('.btn.authorize').click();
  const dialog = page.locator('.dialog-ux');
  await dialog.locator('input').fill(credential);
  await dialog.locator('button.authorize').click();
  await dialog.locator('button.btn-done').click();
  await page.locator('.btn.authorize.locked').waitFor();
}

/// A browser writes on its console that an answer was an error; this one is meant to be.
async function expecting(page, status, work) {
  page.expected = status >= 400 ? status : undefined;
  await work();
  page.expected = undefined;
}

/// Runs a fact in a context of its own; what the browser complains of is a failure, too.
async function run(browser, server, fact) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, reducedMotion: 'reduce' });
  const [complaints, allowed] = [[], new Set([server.url])];
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.on('console', (message) => {
    const isExpected = page.expected && message.text().includes(`status of ${page.expected}`);
    if (['error', 'warning'].includes(message.type()) && !isExpected) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(`${error}`));
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol.startsWith('http') && !allowed.has(url.origin)) complaints.push(`it asks ${url.origin}`);
  });
  await context.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      console.error(`${event.violatedDirective} keeps out ${event.blockedURI}`);
    });
  });
  try {
    await fact({ page, server, allow: (origin) => allowed.add(origin) });
    assert.deepEqual(complaints, []);
  } catch (error) {
    if (complaints.length > 0) error.message += `\nthe browser complains: ${complaints.join('\n')}`;
    throw error;
  } finally {
    await context.close();
  }
}

/// The system's own Chromium. Playwright would bring one of its own, of hundreds of megabytes.
function launch() {
  const executablePath = process.env.CHROMIUM ?? BROWSERS.map(inPath).find(Boolean) ?? inPath('Chromium');
  if (!executablePath) throw new Error('there is no Chromium: run scripts/setup test, or name one in CHROMIUM');
  // As root it starts without its sandbox alone, and in containers there is little shared memory.
  const args = ['--disable-dev-shm-usage', ...(process.getuid() === 0 ? ['--no-sandbox'] : [])];
  return chromium.launch({ executablePath, args });
}

function inPath(name) {
  return [...process.env.PATH.split(delimiter), ON_A_MAC].map((folder) => join(folder, name)).find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

const [server, browser] = await Promise.all([Server.start(program), launch()]);
let [passed, failed] = [0, 0];
try {
  for (const [name, fact] of Object.entries(facts)) {
    const start = performance.now();
    try {
      await run(browser, server, fact);
      passed += 1;
      console.log(`ok      ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${name}\n${error.stack}`);
    }
  }
} finally {
  await browser.close();
  await server.stop();
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

// A browser logs in at a real OpenID provider. Its Socket.IO client then uses the login, and a logout ends its socket.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { test } from 'node:test';
import Provider from 'oidc-provider';

import { launch } from './lib/demo.mjs';
import { printFigures } from './lib/ledger.mjs';
import { startSite } from './lib/site.mjs';
import { soon, until } from './lib/wait.mjs';

printFigures(import.meta.url);

const SECRET = 'the-secret-of-the-client';

/** A server for a provider, whose clients are known only when the proxy has its port. */
async function listen(t) {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { server, issuer: `http://127.0.0.1:${server.address().port}` };
}

function provide({ server, issuer }, origin) {
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: 'chat',
        client_secret: SECRET,
        redirect_uris: [`${origin}/oidc/callback`],
        post_logout_redirect_uris: [`${origin}/bye`],
      },
    ],
    cookies: { keys: ['a key for tests'] },
    pkce: { required: () => true },
  });
  server.on('request', provider.callback());
}

/** The page and Socket.IO share a login. */
function routes(issuer) {
  const login = `
[routes.auth.oidc]
issuer = "${issuer}"
client_id = "chat"
client_secret = { env = "OIDC_SECRET" }
session = "1h"
after_logout = "/bye"

[routes.headers.response]
set = { X-User = "{subject}" }
`;
  const page = '<!doctype html><title>Room</title><script src=/socket.io/socket.io.js></script>';
  return `[[routes]]
path = "/bye"
respond = { body = "Goodbye." }

[[routes]]
respond = { body = "${page}", type = "text/html" }
${login}
[[routes]]
path = "/socket.io"
pool = "chat"
${login}`;
}

/** A browser whose pages reach only this machine. */
async function openBrowser(t) {
  const context = await (await launch(t)).newContext();
  await context.route((url) => !['localhost', '127.0.0.1'].includes(url.hostname), (route) => route.abort());
  return context;
}

async function logIn(page, url) {
  await page.goto(url);
  await page.fill('[name=login]', 'anna');
  await page.fill('[name=password]', 'x');
  await page.click('[type=submit]');
  await page.waitForSelector('[name=prompt][value=consent]', { state: 'attached' });
  await page.click('[type=submit]');
  await page.waitForURL(url);
}

test('a browser logs in at a provider, and a logout ends its socket', async (t) => {
  const listening = await listen(t);
  const { proxy } = await startSite(t, {
    count: 1,
    routes: routes(listening.issuer),
    env: { OIDC_SECRET: SECRET },
    top: 'drain = { within = "1s" }',
  });
  const origin = `http://localhost:${proxy.ports.get('web')}`;
  provide(listening, origin);
  const context = await openBrowser(t);

  const refused = await fetch(`${origin}/socket.io/?EIO=4&transport=polling`);
  assert.deepEqual([refused.status, refused.headers.get('location')], [401, null]);

  const page = await context.newPage();
  await soon('a login', logIn(page, `${origin}/room?a=1`));
  const again = await page.goto(`${origin}/room?a=1`);
  assert.deepEqual([again.status(), again.headers()['x-user']], [200, 'anna']);
  const cookies = await context.cookies(origin);
  const login = cookies.find(({ name, expires }) => name.startsWith('moorline-login-') && expires > Date.now() / 1000 + 3000);
  assert.ok(login.httpOnly && login.sameSite === 'Lax', JSON.stringify(cookies));

  const users = [];
  page.on('response', (response) => users.push(response.headers()['x-user']));
  const id = await soon('a socket', page.evaluate(connect));
  assert.ok(id && users.length > 0 && users.every((user) => user === 'anna'), JSON.stringify(users));

  const other = await context.newPage();
  await other.goto(`${origin}/oidc/logout`);
  assert.equal(new URL(other.url()).origin, listening.issuer);
  const [reason, code, next] = await soon('the end', page.evaluate(() => window.ended));
  assert.deepEqual([reason, code, next], ['transport close', 1008, 401]);
  await other.click('[name=logout]');
  await other.waitForURL(`${origin}/bye`);
  await until('the end is logged', () => proxy.lines((line) => line.termination === 'revoked').length === 1);

  // The provider asks again: the login has ended there, too.
  await page.goto(`${origin}/room`);
  assert.equal(new URL(page.url()).origin, listening.issuer);
  await page.waitForSelector('[name=login]');
});

/** In the page: connects and upgrades. `window.ended` resolves with the end, and the status of the next try. */
async function connect() {
  const socket = window.io({ reconnectionDelay: 20 });
  window.ended = new Promise((resolve) => {
    socket.once('disconnect', (reason, details) => {
      socket.io.once('reconnect_error', (error) => {
        resolve([reason, details.context.code, error.context?.status ?? error.description]);
        socket.close();
      });
    });
  });
  await new Promise((resolve) => socket.once('connect', resolve));
  if (socket.io.engine.transport.name !== 'websocket') {
    await new Promise((resolve) => socket.io.engine.once('upgrade', resolve));
  }
  return socket.id;
}

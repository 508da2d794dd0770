// Clients with a token in the query, in a header and in a cookie. A session ends with its token, and a fresh token opens
// another one.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { io } from 'socket.io-client';

import { printFigures } from './lib/ledger.mjs';
import { scratch } from './lib/process.mjs';
import { startSite } from './lib/site.mjs';
import { soon, until } from './lib/wait.mjs';

printFigures(import.meta.url);

const SECRET = 'a-secret-that-has-at-least-32-bytes';

/** A token of HS256 that expires in this number of seconds. */
function token(subject, seconds) {
  const now = Date.now() / 1000;
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const message = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: subject, iat: Math.floor(now), exp: now + seconds })}`;
  return `${message}.${createHmac('sha256', SECRET).update(message).digest('base64url')}`;
}

async function startGuarded(t) {
  const file = join(scratch(), 'jwt.secret');
  writeFileSync(file, `${SECRET}\n`);
  const routes = `[[routes]]
pool = "chat"

[routes.auth.jwt]
secret = { file = ${JSON.stringify(file)} }
token = ["header", "cookie:token", "query:token"]
leeway = "0s"
`;
  // A session that has ended with its token may still be known when the proxy stops.
  const { proxy } = await startSite(t, { routes, top: 'drain = { within = "1s" }' });
  return { proxy, url: `http://127.0.0.1:${proxy.ports.get('web')}` };
}

const PLACES = {
  query: (token) => ({ query: { token } }),
  header: (token) => ({ extraHeaders: { authorization: `Bearer ${token}` } }),
  cookie: (token) => ({ extraHeaders: { cookie: `a=b; token=${token}` } }),
};

test('a token in each place opens a session that upgrades', async (t) => {
  const { proxy, url } = await startGuarded(t);
  for (const [place, options] of Object.entries(PLACES)) {
    const refused = io(url, { ...options(token('anna', -60)), reconnection: false, forceNew: true });
    const [error] = await soon(`${place}: a refusal`, once(refused, 'connect_error'));
    assert.equal(error.description, 401, place);
    refused.close();

    const client = io(url, { ...options(token('anna', 60)), forceNew: true });
    t.after(() => client.close());
    await soon(`${place}: a connection`, once(client, 'connect'));
    if (client.io.engine.transport.name !== 'websocket') await soon(`${place}: an upgrade`, once(client.io.engine, 'upgrade'));
    client.close();
  }
  const log = JSON.stringify(proxy.lines());
  assert.ok(!log.includes(token('anna', 60).split('.')[0]), 'no token is logged');
});

test('only the polls of a browser have its header: the upgrade follows the session', async (t) => {
  const { url } = await startGuarded(t);
  const transportOptions = { polling: { extraHeaders: { authorization: `Bearer ${token('anna', 60)}` } } };
  const client = io(url, { transportOptions, forceNew: true });
  t.after(() => client.close());
  await soon('a connection', once(client, 'connect'));
  if (client.io.engine.transport.name !== 'websocket') await soon('an upgrade', once(client.io.engine, 'upgrade'));
  client.close();
});

for (const transports of [['websocket'], ['polling', 'websocket']]) {
  test(`a socket is closed when its token expires, and a fresh token opens another: ${transports}`, async (t) => {
    const { proxy, url } = await startGuarded(t);
    const client = io(url, { transports, query: { token: token('anna', 4) }, reconnectionDelay: 50, forceNew: true });
    t.after(() => client.close());
    client.io.on('reconnect_attempt', () => {
      client.io.opts.query = { token: token('anna', 60) };
    });
    await soon('a connection', once(client, 'connect'));
    const first = client.id;
    if (client.io.engine.transport.name !== 'websocket') await soon('an upgrade', once(client.io.engine, 'upgrade'));
    const [reason, details] = await soon('the end', once(client, 'disconnect'));
    assert.equal(reason, 'transport close');
    assert.equal(details.context.code, 1008);
    await soon('a new connection', once(client, 'connect'));
    assert.notEqual(client.id, first);
    await until('the end is logged', () => proxy.lines((line) => line.termination === 'expired').length === 1);
    client.close();
  });
}

test('a polling session ends when its token expires, and a fresh token opens another', async (t) => {
  const { url } = await startGuarded(t);
  const client = io(url, { transports: ['polling'], query: { token: token('anna', 4) }, reconnectionDelay: 50, forceNew: true });
  t.after(() => client.close());
  client.io.on('reconnect_attempt', () => {
    client.io.opts.query = { token: token('anna', 60) };
  });
  await soon('a connection', once(client, 'connect'));
  const first = client.id;
  // Requests of an ended session get the error of an unknown one.
  const packets = setInterval(() => client.emit('echo', 'x'), 100);
  await soon('the end', once(client, 'disconnect'));
  await soon('a new connection', once(client, 'connect'));
  assert.notEqual(client.id, first);
  clearInterval(packets);
  client.close();
});

// A cross-origin client with preflighted requests: replies have the CORS fields that a browser needs, and a preflight
// starts no session and gets no cookie.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertAffinity, printFigures } from './lib/ledger.mjs';
import { call } from './lib/request.mjs';
import { startSite } from './lib/site.mjs';

printFigures(import.meta.url);

const ORIGIN = 'https://app.example.test';
const PATH = '/socket.io/?EIO=4&transport=polling';
const CORS = { origin: ORIGIN, credentials: true, allowedHeaders: ['x-token'] };

for (const tls of [false, true]) {
  test(`preflights, polls and errors, ${tls ? 'https' : 'http'}`, async (t) => {
    const { nodes, proxy } = await startSite(t, { nodes: { engine: { cors: CORS } } });
    const { ports, ca } = proxy.endpoint({ tls });
    const site = { port: ports[0], ca };

    await preflight(site, PATH, 'GET');
    const handshake = await crossOrigin(site, { path: PATH });
    assert.equal(handshake.status, 200);
    const { sid } = JSON.parse(handshake.body.slice(1));
    const cookies = handshake.headers['set-cookie'].filter((line) => line.startsWith('moorline-chat='));
    assert.equal(cookies.length, 1);
    // Browsers accept a cookie from another site only over TLS.
    assert.match(cookies[0], tls ? /; SameSite=None/i : /; SameSite=Lax/i);
    assert.equal(/; Secure/i.test(cookies[0]), tls);

    const path = `${PATH}&sid=${sid}`;
    await preflight(site, path, 'POST');
    const post = await crossOrigin(site, { path, method: 'POST', body: '40', headers: { 'Content-Type': 'text/plain' } });
    assert.deepEqual([post.status, post.body], [200, 'ok']);
    await preflight(site, path, 'GET');
    const poll = await crossOrigin(site, { path });
    assert.equal(poll.status, 200);
    assert.match(poll.body, /^40\{"sid":/);

    const owner = (await assertAffinity(nodes)).find(({ made }) => made.includes(sid));
    assert.equal(owner.preflights, 2, 'preflights of a session go to the node of the session');
    await assertUnknownSession(site, `${PATH}&sid=unknown_sid`);
    await nodes.find((node) => node.name === owner.node).kill();
    await assertUnknownSession(site, path);
  });
}

/** Sends a preflight and checks the reply. */
async function preflight(site, path, method) {
  const headers = { 'Access-Control-Request-Method': method, 'Access-Control-Request-Headers': 'x-token' };
  const answer = await call({ ...site, path, method: 'OPTIONS', headers: { Origin: ORIGIN, 'Sec-Fetch-Site': 'cross-site', ...headers } });
  assert.equal(answer.status, 204);
  assert.equal(answer.headers['access-control-allow-headers'], 'x-token');
  assertReadable(answer);
  assert.equal(answer.headers['set-cookie'], undefined, 'a preflight gets no cookie');
}

async function crossOrigin(site, { headers, ...rest }) {
  const answer = await call({ ...site, ...rest, headers: { Origin: ORIGIN, 'Sec-Fetch-Site': 'cross-site', 'X-Token': 'secret', ...headers } });
  assertReadable(answer);
  return answer;
}

/** Asserts the headers without which a browser does not let a page read the reply. */
function assertReadable({ headers }) {
  assert.equal(headers['access-control-allow-origin'], ORIGIN);
  assert.equal(headers['access-control-allow-credentials'], 'true');
}

/** Asserts that the reply is the Engine.IO error 1, readable from another origin; a client then opens a new session. */
async function assertUnknownSession(site, path) {
  const { status, headers, body } = await crossOrigin(site, { path });
  assert.equal(status, 400);
  assert.match(headers['content-type'], /^application\/json/);
  assert.deepEqual(JSON.parse(body), { code: 1, message: 'Session ID unknown' });
}

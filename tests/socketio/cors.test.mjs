// A cross-origin client whose requests are preflighted: what a browser needs to see it sees, and preflights,
// which carry neither cookie nor session, start none.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertMoored, printFigures } from './lib/ledger.mjs';
import { call } from './lib/request.mjs';
import { startSite } from './lib/site.mjs';

printFigures(import.meta.url);

const ORIGIN = 'https://app.example.test';
const PATH = '/socket.io/?EIO=4&transport=polling';
const CORS = { origin: ORIGIN, credentials: true, allowedHeaders: ['x-token'] };

for (const tls of [false, true]) {
  test(`preflights, polls and errors, ${tls ? 'https' : 'http'}`, async (t) => {
    const { nodes, proxy } = await startSite(t, { nodes: { engine: { cors: CORS } } });
    const { ports, ca } = proxy.door({ tls });
    const site = { port: ports[0], ca };

    await preflight(site, PATH, 'GET');
    const handshake = await cross(site, { path: PATH });
    assert.equal(handshake.status, 200);
    const { sid } = JSON.parse(handshake.body.slice(1));
    const cookies = handshake.headers['set-cookie'].filter((line) => line.startsWith('moorline-chat='));
    assert.equal(cookies.length, 1);
    // Only over TLS do browsers take a cookie from another site.
    assert.match(cookies[0], tls ? /; SameSite=None/i : /; SameSite=Lax/i);
    assert.equal(/; Secure/i.test(cookies[0]), tls);

    const path = `${PATH}&sid=${sid}`;
    await preflight(site, path, 'POST');
    const post = await cross(site, { path, method: 'POST', body: '40', headers: { 'Content-Type': 'text/plain' } });
    assert.deepEqual([post.status, post.body], [200, 'ok']);
    await preflight(site, path, 'GET');
    const poll = await cross(site, { path });
    assert.equal(poll.status, 200);
    assert.match(poll.body, /^40\{"sid":/);

    const owner = (await assertMoored(nodes)).find(({ made }) => made.includes(sid));
    assert.equal(owner.preflights, 2, "a session's preflights go where the session is");
    await unknown(site, `${PATH}&sid=nobody_knows_this_one`);
    await nodes.find((node) => node.name === owner.node).kill();
    await unknown(site, path);
  });
}

/** What a browser asks before it sends what a page may not send everywhere. */
async function preflight(site, path, method) {
  const headers = { 'Access-Control-Request-Method': method, 'Access-Control-Request-Headers': 'x-token' };
  const answer = await call({ ...site, path, method: 'OPTIONS', headers: { Origin: ORIGIN, 'Sec-Fetch-Site': 'cross-site', ...headers } });
  assert.equal(answer.status, 204);
  assert.equal(answer.headers['access-control-allow-headers'], 'x-token');
  assertReadable(answer);
  assert.equal(answer.headers['set-cookie'], undefined, 'a preflight gets no cookie');
}

async function cross(site, { headers, ...rest }) {
  const answer = await call({ ...site, ...rest, headers: { Origin: ORIGIN, 'Sec-Fetch-Site': 'cross-site', 'X-Token': 'secret', ...headers } });
  assertReadable(answer);
  return answer;
}

/** A browser lets a page read only what these headers allow. */
function assertReadable({ headers }) {
  assert.equal(headers['access-control-allow-origin'], ORIGIN);
  assert.equal(headers['access-control-allow-credentials'], 'true');
}

/** The Engine.IO error, readable from another origin, so that the client opens a new session at once. */
async function unknown(site, path) {
  const { status, headers, body } = await cross(site, { path });
  assert.equal(status, 400);
  assert.match(headers['content-type'], /^application\/json/);
  assert.deepEqual(JSON.parse(body), { code: 1, message: 'Session ID unknown' });
}

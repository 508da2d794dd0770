// Clients in a real browser, on a page of another site: JSONP with v2, preflighted requests with v4. Each session
// must stay on its node even if the browser rejects the cookie from another site.

import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';

import { POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { launch } from './lib/demo.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { servePages, visit } from './lib/page.mjs';
import { startSite } from './lib/site.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

const VISITORS = 3;
const TOKEN = { extraHeaders: { 'X-Token': 'secret' }, withCredentials: true };
const VARIANTS = [
  ['v2', 'JSONP only', { transports: POLLING, forceJSONP: true }],
  ['v2', 'JSONP then upgrade', { transports: UPGRADING, forceJSONP: true }],
  ['v2', 'polling then upgrade', { transports: UPGRADING }],
  ['v2', 'polling only', { transports: POLLING }],
  ['v4', 'preflighted polling then upgrade', { transports: UPGRADING, ...TOKEN }],
  ['v4', 'preflighted polling only', { transports: POLLING, ...TOKEN }],
  ['v4', 'websocket only', { transports: WEBSOCKET }],
];

for (const generation of ['v2', 'v4']) {
  test(`${generation}: pages of another site`, async (t) => {
    const origin = await servePages(t);
    const browser = await launch(t);
    const cors = { origin, credentials: true, allowedHeaders: ['x-token'] };
    const { nodes, proxy } = await startSite(t, { nodes: { generation, engine: generation === 'v4' ? { cors } : {} } });
    for (const [, variant, settings] of VARIANTS.filter(([of]) => of === generation)) {
      for (const tls of [false, true]) {
        await t.test(`${variant}, ${tls ? 'https' : 'http'}`, () =>
          visitors({ origin, browser, generation, nodes, proxy, settings, tls }),
        );
      }
    }
  });
}

// When a v2 client disconnects, its last poll can arrive after the request that closes the session.
test('v2: a poll that arrives after the close of its session gets the reply of its node', async (t) => {
  const { nodes, proxy } = await startSite(t, { nodes: { generation: 'v2' } });
  const address = `http://127.0.0.1:${proxy.endpoint().ports[0]}`;
  const path = '/socket.io/?EIO=3&transport=polling';
  const opened = await (await fetch(`${address}${path}`)).text();
  const sid = opened.match(/"sid":"([^"]+)"/)[1];
  const poll = await sendHalf(proxy.endpoint().ports[0], `${path}&sid=${sid}`);
  assert.equal(await (await fetch(`${address}${path}&sid=${sid}`, { method: 'POST', body: '1:1' })).text(), 'ok');
  const answer = await poll();
  assert.match(answer, /^HTTP\/1\.1 400 /);
  assert.match(answer, /\{"code":1,"message":"Session ID unknown"\}/);
  const [made] = await assertAffinity(nodes).then((all) => all.filter(({ made }) => made.includes(sid)));
  assert.match(answer, new RegExp(`x-node: ${made.node}\\r\\n`, 'i'));
  assert.deepEqual(made.unknown, [sid], 'the poll reached the node after the close');
  await until('the poll is logged', () => proxy.lines(({ status }) => status === 400)[0]);
  const [line] = proxy.lines(({ status }) => status === 400);
  assert.deepEqual([line.chosen_by, line.termination], ['sid', 'complete']);
});

/** Sends a GET without its last line; resolves with a function that sends the rest and resolves with the reply. */
async function sendHalf(port, path) {
  const socket = connect(port, '127.0.0.1');
  await new Promise((sent) => socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n`, sent));
  return () =>
    new Promise((resolve, reject) => {
      let answer = '';
      socket.setEncoding('utf8').on('data', (chunk) => (answer += chunk));
      socket.on('end', () => resolve(answer)).on('error', reject);
      socket.write('\r\n');
    });
}

async function visitors({ origin, browser, generation, nodes, proxy, settings, tls }) {
  const ledger = new Ledger();
  const address = `${tls ? 'https' : 'http'}://localhost:${proxy.endpoint({ tls }).ports[0]}`;
  const before = await preflights(nodes);
  // Sessions of the previous visitors would count in the choice of a backend.
  await until('no session is left', async () => (await proxy.metric('moorline_backend_sessions')) === 0);
  const seen = await Promise.all(
    Array.from({ length: VISITORS }, () => visit(browser, { origin, generation, address, settings, ledger })),
  );
  assert.equal(new Set(seen.map(({ node }) => node)).size, nodes.length, 'sessions go to all nodes');
  assert.ok(seen.every(({ transport }) => transport === settings.transports.at(-1)));
  assert.equal(ledger.upgrades, settings.transports === UPGRADING ? VISITORS : 0);
  if (settings.extraHeaders) assert.ok((await preflights(nodes)) > before, 'the browser sent preflights');
  // The browser does not show tests the headers of a 101.
  if (settings.transports !== WEBSOCKET) for (const { offered } of seen) checkOffers(offered, tls);
  ledger.assertClean();
  await assertAffinity(nodes);
  proxy.assertNoFaults();
}

/** Browsers accept a cookie from another site only with `SameSite=None; Secure`, which needs TLS. */
function checkOffers(offered, tls) {
  assert.ok(offered.length > 0, 'a handshake offers the cookie');
  for (const line of offered) {
    assert.match(line, /; HttpOnly/i);
    assert.match(line, tls ? /; SameSite=None/i : /; SameSite=Lax/i);
    assert.equal(/; Secure/i.test(line), tls, line);
  }
}

async function preflights(nodes) {
  const all = await Promise.all(nodes.map((node) => node.stats()));
  return all.reduce((sum, stats) => sum + stats.preflights, 0);
}

// All kinds of Socket.IO clients through the proxy to three nodes: both generations, each transport, http and https,
// with and without cookies.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, converse, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { startSite } from './lib/site.mjs';

printFigures(import.meta.url);

const CLIENTS = 6;
const TRANSPORTS = new Map([
  ['polling then upgrade', UPGRADING],
  ['websocket only', WEBSOCKET],
  ['polling only', POLLING],
]);

for (const generation of ['v4', 'v2']) {
  test(`${generation} nodes and clients`, async (t) => {
    const site = await startSite(t, { nodes: { generation } });
    for (const [way, transports] of TRANSPORTS) {
      for (const tls of [false, true]) {
        for (const cookies of [false, true]) {
          const name = `${way}, ${tls ? 'https' : 'http'}, ${cookies ? 'with' : 'without'} cookies`;
          await t.test(name, () => visit(site, { generation, transports, tls, cookies }));
        }
      }
    }
  });
}

test('v2 clients at v4 nodes that allow them', async (t) => {
  const site = await startSite(t, { nodes: { generation: 'v4', engine: { allowEIO3: true } } });
  for (const [way, transports] of TRANSPORTS) {
    for (const tls of [false, true]) {
      const name = `${way}, ${tls ? 'https' : 'http'}`;
      await t.test(name, () => visit(site, { generation: 'v2', transports, tls, cookies: false }));
    }
  }
});

let visits = 0;

async function visit({ nodes, proxy }, { generation, transports, tls, cookies }) {
  const ledger = new Ledger();
  // A new user agent for each visit: otherwise the proxy recognizes earlier clients and sends new ones to their nodes
  // instead of the node with the fewest sessions.
  const options = { extraHeaders: { 'User-Agent': `visit ${++visits}` } };
  const settings = { generation, transports, cookies, ledger, options };
  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => connect(proxy.endpoint({ tls }), settings)));
  assert.equal(new Set(clients.map((client) => client.node)).size, nodes.length, 'sessions go to all nodes');
  await Promise.all(clients.map(converse));

  for (const client of clients) checkCookie(client, tls);
  if (cookies) await reconnectToSameNode(clients);
  assert.equal(ledger.upgrades, transports === UPGRADING ? ledger.clients : 0);
  await closeAll(clients);
  ledger.assertClean();
  await assertAffinity(nodes);
  proxy.assertNoFaults();
}

/** Asserts that the proxy sets its cookie once, with the right attributes for http or https. */
function checkCookie({ agent }, tls) {
  const lines = agent.offered.filter((line) => line.startsWith('moorline-chat='));
  assert.ok(lines.length >= 1, 'a handshake sets the cookie');
  for (const line of lines) {
    assert.match(line, /; HttpOnly/i);
    assert.match(line, /; SameSite=Lax/i);
    assert.equal(/; Secure/i.test(line), tls, line);
    assert.doesNotMatch(line, /127\.0\.0\.1/);
  }
  if (agent.jar) assert.equal(lines.length, 1, 'the cookie is set only once');
  else assert.deepEqual(agent.sent, []);
}

/** Asserts that clients with cookies reconnect to their node, and do not get the cookie again. */
async function reconnectToSameNode(clients) {
  for (const client of clients) {
    const { node, sid } = client;
    await client.reconnect();
    assert.notEqual(client.sid, sid);
    assert.equal(client.node, node);
    checkCookie(client, client.agent.secure);
  }
}

// Every way a Socket.IO client can come, through the proxy to three nodes: both generations, each
// transport, http and https, with and without cookies.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, converse, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertMoored, Ledger, printFigures } from './lib/ledger.mjs';
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

let crowds = 0;

async function visit({ nodes, proxy }, { generation, transports, tls, cookies }) {
  const ledger = new Ledger();
  // Nobody is to be taken for one of the crowd before, which the proxy remembers: it would send him where that
  // one was, and not where the fewest are.
  const options = { extraHeaders: { 'User-Agent': `crowd ${++crowds}` } };
  const settings = { generation, transports, cookies, ledger, options };
  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => connect(proxy.door({ tls }), settings)));
  assert.equal(new Set(clients.map((client) => client.node)).size, nodes.length, 'sessions go to all nodes');
  await Promise.all(clients.map(converse));

  for (const client of clients) checkCookie(client, tls);
  if (cookies) await returnHome(clients);
  assert.equal(ledger.upgrades, transports === UPGRADING ? ledger.clients : 0);
  await closeAll(clients);
  ledger.assertClean();
  await assertMoored(nodes);
  proxy.assertUntroubled();
}

/** The proxy offers its cookie once, with the attributes that the connection asks for. */
function checkCookie({ agent }, tls) {
  const lines = agent.offered.filter((line) => line.startsWith('moorline-chat='));
  assert.ok(lines.length >= 1, 'a handshake brings the cookie');
  for (const line of lines) {
    assert.match(line, /; HttpOnly/i);
    assert.match(line, /; SameSite=Lax/i);
    assert.equal(/; Secure/i.test(line), tls, line);
    assert.doesNotMatch(line, /127\.0\.0\.1/);
  }
  if (agent.jar) assert.equal(lines.length, 1, 'no second offer to a client that has it');
  else assert.deepEqual(agent.sent, []);
}

/** A client that keeps cookies comes back to its node with a new session, and is not given the cookie again. */
async function returnHome(clients) {
  for (const client of clients) {
    const { node, sid } = client;
    await client.comeBack();
    assert.notEqual(client.sid, sid);
    assert.equal(client.node, node);
    checkCookie(client, client.agent.secure);
  }
}

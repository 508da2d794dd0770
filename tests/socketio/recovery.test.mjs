// Connection state recovery: only the previous node has the packets that a client missed. A client on Node keeps no
// cookie, so the proxy recognizes it by its address and by the user agent of its handshake. A default client sends a
// user agent with its polls and none with its upgrade.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { Ledger, printFigures } from './lib/ledger.mjs';
import { startSite } from './lib/site.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

/** Number of clients that reconnect at once, and of clients that reconnect one after the other. */
const CROWD = 30;
const FEW = 10;
const RECOVERY = { engine: { connectionStateRecovery: { maxDisconnectionDuration: 60_000 } } };

for (const [description, transports] of [
  ['that upgrade', UPGRADING],
  ['over WebSocket alone', WEBSOCKET],
  ['over polling alone', POLLING],
]) {
  test(`clients ${description}, of different user agents, all recover at once`, async (t) => {
    const site = await startSite(t, { nodes: RECOVERY });
    const clients = await connectClients(site, CROWD, transports, (i) => `app/${i}`);
    const before = clients.map(({ node }) => node);
    for (const client of clients) interrupt(client);
    for (const [i, client] of clients.entries()) await assertRecovered(client, before[i]);
    await closeAll(clients);
    site.proxy.assertNoFaults();
  });

  test(`clients ${description}, of one user agent, all recover one by one`, async (t) => {
    const site = await startSite(t, { nodes: RECOVERY });
    const clients = await connectClients(site, FEW, transports);
    for (const client of clients) {
      const { node } = client;
      interrupt(client);
      await assertRecovered(client, node);
    }
    await closeAll(clients);
    site.proxy.assertNoFaults();
  });
}

/** Connects clients to all nodes; the first request of each has the user agent that `agent` gives, or the default. */
async function connectClients({ nodes, proxy }, count, transports, agent) {
  const ledger = new Ledger();
  const clients = [];
  for (let i = 0; i < count; i++) {
    const own = agent && { [transports[0]]: { extraHeaders: { 'User-Agent': agent(i) } } };
    const options = { transportOptions: own ?? {} };
    clients.push(await connect(proxy.endpoint({ tls: false }), { transports, ledger, options }));
  }
  assert.equal(new Set(clients.map(({ node }) => node)).size, nodes.length);
  return clients;
}

/** Ends the session like a lost connection; the client reconnects by itself. */
function interrupt(client) {
  client.socket.io.engine.close();
}

async function assertRecovered(client, node) {
  await until(() => `a client of ${node} is back: ${JSON.stringify(client.welcomes)}`, () => client.welcomes.length > 1 && client.isReady);
  assert.equal(client.node, node);
  assert.equal(client.socket.recovered, true, `a client of ${node} has recovered`);
}

// Routes that change or close what is behind them.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, converse, open, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { startSite } from './lib/site.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

for (const generation of ['v4', 'v2']) {
  test(`${generation} clients below a prefix that is stripped`, async (t) => {
    const routes = `[[routes]]
path = "/app1"
pool = "chat"
rewrite = { strip_prefix = "/app1" }`;
    const { nodes, proxy } = await startSite(t, { count: 2, nodes: { generation }, routes });
    const ledger = new Ledger();
    const options = { path: '/app1/socket.io/' };
    const ways = [UPGRADING, POLLING, WEBSOCKET].flatMap((way) => [way, way]);
    const join = (transports) => connect(proxy.endpoint(), { generation, transports, ledger, options });
    const clients = await Promise.all(ways.map(join));
    await Promise.all(clients.map(converse));
    await closeAll(clients);
    ledger.assertClean();
    await assertAffinity(nodes);
    proxy.assertNoFaults();
  });
}

test('clients wait for the end of maintenance', async (t) => {
  const route = '[[routes]]\npool = "chat"\n';
  const { proxy } = await startSite(t, { count: 1, routes: route });
  const [calm, waiting] = [new Ledger(), new Ledger()];
  // Quick attempts, so that the test is short.
  const options = { reconnectionDelay: 50, reconnectionDelayMax: 100 };
  const socket = await connect(proxy.endpoint(), { transports: WEBSOCKET, ledger: calm });
  const poller = await connect(proxy.endpoint(), { transports: POLLING, ledger: waiting, options });
  await proxy.edit({ routes: `${route}maintenance = { retry_after = "1s" }\n` });
  const late = open(proxy.endpoint(), { transports: UPGRADING, ledger: waiting, options });
  // Its poll is held already, and ends its session with the next request.
  poller.socket.emit('echo', 'lost');
  await until('the clients are refused', () => waiting.errors.length >= 4 && !poller.socket.connected);
  assert.ok(!late.socket.connected);
  // An open WebSocket is not closed.
  await converse(socket);
  await proxy.edit({ routes: route });
  await Promise.all([poller, late].map((client) => client.waitUntilReady()));
  await Promise.all([socket, poller, late].map(converse));
  await closeAll([socket, poller, late]);
  calm.assertClean();
  waiting.assertClean(() => true);
});

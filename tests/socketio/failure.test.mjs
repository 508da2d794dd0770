// A node is killed under load: its clients reconnect to other nodes within five seconds, other clients are not affected.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

/** Time limit in milliseconds for the clients of the killed node. */
const RECONNECTED = 5000;

for (const generation of ['v4', 'v2']) {
  for (const cookies of [false, true]) {
    const name = `${generation}: a node killed under load, clients ${cookies ? 'with' : 'without'} cookies`;
    test(name, (t) => killNode(t, { generation, cookies }));
  }
}

async function killNode(t, { generation, cookies }) {
  const { nodes, proxy } = await startSite(t, { nodes: { generation } });
  const ledger = new Ledger();
  const ways = [UPGRADING, WEBSOCKET, POLLING].flatMap((way) => Array(20).fill(way));
  const clients = await Promise.all(
    ways.map((transports, i) => connect(proxy.endpoint({ tls: i % 2 === 0 }), { generation, transports, cookies, ledger })),
  );
  const talk = traffic(clients);
  await talk.rounds(3);
  ledger.assertClean();

  const killedNode = nodes[1];
  const affected = clients.filter((client) => client.node === killedNode.name);
  const others = clients.filter((client) => client.node !== killedNode.name);
  const lost = new Set((await killedNode.stats()).made);
  const welcomes = new Map(others.map((client) => [client, client.welcomes.length]));
  assert.ok(affected.length >= 10, `${affected.length} clients are on the node to kill`);
  const killedAt = performance.now();
  await killedNode.kill();

  const reconnected = (client) => client.node !== null && client.node !== killedNode.name;
  const remaining = () => affected.filter((client) => !reconnected(client));
  await until(() => `${remaining().length} of ${affected.length} clients found another node`, () => remaining().length === 0, RECONNECTED);
  const slowest = Math.max(...affected.map((client) => client.welcomes.at(-1).at - killedAt));
  assert.ok(slowest <= RECONNECTED, `the last client reconnected after ${slowest} ms`);
  await Promise.all(affected.map((client) => client.waitUntilReady()));
  await talk.rounds(5);
  await talk.stop();

  await closeAll(clients);
  // Only errors of sessions on the killed node are expected.
  ledger.assertClean((entry) => lost.has(entry.sid));
  for (const client of others) assert.equal(client.welcomes.length, welcomes.get(client), 'other clients keep their session');
  assert.equal(ledger.disconnects.length, affected.length, 'one disconnect for each client of the killed node');
  await assertAffinity(nodes, { gone: lost });
  console.log(`${affected.length} clients of the killed node were on another after at most ${Math.round(slowest)} ms`);
}

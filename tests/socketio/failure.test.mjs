// A node dies under load: its clients are on another node within five seconds, the others notice nothing.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertMoored, Ledger, printFigures } from './lib/ledger.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

const RESCUE = 5000;

for (const generation of ['v4', 'v2']) {
  for (const cookies of [false, true]) {
    const name = `${generation}: a node killed under load, clients ${cookies ? 'with' : 'without'} cookies`;
    test(name, (t) => killOne(t, { generation, cookies }));
  }
}

async function killOne(t, { generation, cookies }) {
  const { nodes, proxy } = await startSite(t, { nodes: { generation } });
  const ledger = new Ledger();
  const ways = [UPGRADING, WEBSOCKET, POLLING].flatMap((way) => Array(20).fill(way));
  const clients = await Promise.all(
    ways.map((transports, i) => connect(proxy.door({ tls: i % 2 === 0 }), { generation, transports, cookies, ledger })),
  );
  const talk = traffic(clients);
  await talk.rounds(3);
  ledger.assertClean();

  const dead = nodes[1];
  const victims = clients.filter((client) => client.node === dead.name);
  const others = clients.filter((client) => client.node !== dead.name);
  const lost = new Set((await dead.account()).made);
  const welcomes = new Map(others.map((client) => [client, client.welcomes.length]));
  assert.ok(victims.length >= 10, `${victims.length} clients are on the node that dies`);
  const killed = performance.now();
  await dead.kill();

  const rescued = (client) => client.node !== null && client.node !== dead.name;
  const left = () => victims.filter((client) => !rescued(client));
  await until(() => `${left().length} of ${victims.length} clients found another node`, () => left().length === 0, RESCUE);
  const slowest = Math.max(...victims.map((client) => client.welcomes.at(-1).at - killed));
  assert.ok(slowest <= RESCUE, `the last of them was there after ${slowest} ms`);
  await Promise.all(victims.map((client) => client.settle()));
  await talk.rounds(5);
  await talk.stop();

  for (const client of others) assert.equal(client.welcomes.length, welcomes.get(client), 'the others keep their session');
  await closeAll(clients);
  // What the dead node's own sessions met is the kill's doing, and nothing else is.
  ledger.assertClean((entry) => lost.has(entry.sid));
  assert.equal(ledger.disconnects.length, victims.length, 'one disconnect for each client of the dead node');
  await assertMoored(nodes, { gone: lost });
  console.log(`${victims.length} clients of the killed node were on another after at most ${Math.round(slowest)} ms`);
}

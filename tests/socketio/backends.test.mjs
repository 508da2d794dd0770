// The list of backends changes during traffic: a removed backend keeps its sessions and gets no new ones, a backend
// that is added again gets new sessions, and connections that are open at the drain deadline are closed.

import assert from 'node:assert/strict';
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { closeAll, connect, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { scratch } from './lib/process.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

const TRANSPORTS = [UPGRADING, WEBSOCKET, POLLING];

/** Sources of the list of backends; `apply` resolves when the proxy has loaded the new list. */
const LISTS = {
  'in the configuration': () => ({
    initial: (backends) => ({ backends }),
    apply: (proxy, backends) => proxy.edit({ backends }),
  }),
  'in a list file': () => {
    const file = join(scratch(), 'backends.txt');
    const write = (backends) => {
      writeFileSync(`${file}.draft`, backends.map((backend) => `${backend}\n`).join(''));
      renameSync(`${file}.draft`, file);
    };
    return {
      initial: (backends) => (write(backends), { backends: `{ file = ${JSON.stringify(file)} }` }),
      apply: (proxy, backends) => proxy.reloaded(() => write(backends)),
    };
  },
};

for (const [where, list] of Object.entries(LISTS)) {
  for (const generation of ['v4', 'v2']) {
    test(`${generation}: a backend removed and added again, ${where}`, async (t) => {
      const { initial, apply } = list();
      const { nodes, proxy } = await startSite(t, { nodes: { generation }, listed: initial });
      await removeAndAdd({ nodes, proxy, generation, apply });
    });
  }
}

async function removeAndAdd({ nodes, proxy, generation, apply }) {
  const ledger = new Ledger();
  const addresses = nodes.map((node) => node.address);
  const removed = nodes[2];
  const sessionCount = async () => (await removed.stats()).made.length;
  const connectClients = (count, cookies) => {
    const transportsOfEach = Array.from({ length: count }, (_, i) => TRANSPORTS[i % TRANSPORTS.length]);
    const connecting = transportsOfEach.map((transports, i) =>
      connect(proxy.endpoint({ tls: i % 2 === 0 }), { generation, transports, cookies, ledger }),
    );
    return Promise.all(connecting);
  };

  const clients = await connectClients(18, true);
  const talk = traffic(clients);
  const before = await sessionCount();
  assert.equal(before, 6);
  const kept = clients.filter((client) => client.node === removed.name);

  await apply(proxy, addresses.slice(0, 2));
  const late = await connectClients(9);
  assert.ok(late.every((client) => client.node !== removed.name), 'a removed backend gets no new session');
  // A cookie for the removed backend leads to another one.
  const [returning] = kept.splice(0, 1);
  clients.splice(clients.indexOf(returning), 1);
  returning.finished = true; // Its traffic ends here.
  await returning.reconnect();
  assert.notEqual(returning.node, removed.name);
  await talk.rounds(5);
  assert.equal(await sessionCount(), before);
  for (const client of kept) assert.equal(client.welcomes.length, 1, 'a removed backend keeps its sessions');

  await apply(proxy, addresses);
  const later = await connectClients(18);
  assert.ok(later.some((client) => client.node === removed.name), 'a backend that is added again gets sessions');
  await talk.rounds(5);
  await talk.stop();
  for (const client of kept) assert.equal(client.welcomes.length, 1);
  await closeAll([...clients, returning, ...late, ...later]);
  ledger.assertClean();
  await assertAffinity(nodes);
  proxy.assertNoFaults();
}

test('at the drain deadline, clients of a removed backend are disconnected and reconnect to another node', async (t) => {
  const { nodes, proxy } = await startSite(t, { pool: 'drain = "1s"' });
  const ledger = new Ledger();
  const clients = await Promise.all(
    Array.from({ length: 18 }, (_, i) => connect(proxy.endpoint({ tls: i % 2 === 0 }), { transports: TRANSPORTS[i % 3], ledger })),
  );
  const talk = traffic(clients);
  await talk.rounds(1);
  const removed = nodes[2];
  const lost = new Set((await removed.stats()).made);
  const cut = clients.filter((client) => client.node === removed.name);
  assert.equal(cut.length, 6);
  await proxy.edit({ backends: nodes.slice(0, 2).map((node) => node.address) });
  await until('all its clients are on other nodes', () => cut.every((client) => client.welcomes.length === 2));
  assert.ok(cut.every((client) => client.node !== removed.name));
  await talk.rounds(3);
  await talk.stop();
  await closeAll(clients);
  ledger.assertClean((entry) => lost.has(entry.sid));
  assert.equal(ledger.disconnects.length, cut.length);
  await assertAffinity(nodes, { gone: lost });
});

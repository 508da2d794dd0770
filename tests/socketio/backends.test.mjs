// The list of backends changes during traffic: who is removed keeps the sessions it has and takes no new
// ones, who is added again takes again; what is left at the drain deadline is cut.

import assert from 'node:assert/strict';
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { closeAll, connect, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertMoored, Ledger, printFigures } from './lib/ledger.mjs';
import { scratch } from './lib/process.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

const WAYS = [UPGRADING, WEBSOCKET, POLLING];

/** Ways to tell the proxy which backends there are: each resolves when it has heard. */
const LISTS = {
  'in the configuration': () => ({
    initial: (backends) => ({ backends }),
    tell: (proxy, backends) => proxy.edit({ backends }),
  }),
  'in a list file': () => {
    const file = join(scratch(), 'backends.txt');
    const write = (backends) => {
      writeFileSync(`${file}.draft`, backends.map((backend) => `${backend}\n`).join(''));
      renameSync(`${file}.draft`, file);
    };
    return {
      initial: (backends) => (write(backends), { backends: `{ file = ${JSON.stringify(file)} }` }),
      tell: (proxy, backends) => proxy.reloaded(() => write(backends)),
    };
  },
};

for (const [where, list] of Object.entries(LISTS)) {
  for (const generation of ['v4', 'v2']) {
    test(`${generation}: a backend removed and added again, ${where}`, async (t) => {
      const { initial, tell } = list();
      const { nodes, proxy } = await startSite(t, { nodes: { generation }, listed: initial });
      await leaveAndReturn({ nodes, proxy, generation, tell });
    });
  }
}

async function leaveAndReturn({ nodes, proxy, generation, tell }) {
  const ledger = new Ledger();
  const addresses = nodes.map((node) => node.address);
  const leaver = nodes[2];
  const made = async () => (await leaver.account()).made.length;
  const arrive = (count, cookies) => {
    const ways = Array.from({ length: count }, (_, i) => WAYS[i % WAYS.length]);
    const connecting = ways.map((transports, i) =>
      connect(proxy.door({ tls: i % 2 === 0 }), { generation, transports, cookies, ledger }),
    );
    return Promise.all(connecting);
  };

  const clients = await arrive(18, true);
  const talk = traffic(clients);
  const before = await made();
  assert.equal(before, 6);
  const loyal = clients.filter((client) => client.node === leaver.name);

  await tell(proxy, addresses.slice(0, 2));
  const late = await arrive(9);
  assert.ok(late.every((client) => client.node !== leaver.name), 'a removed backend takes no new session');
  // A cookie that names it leads elsewhere, too.
  const [returning] = loyal.splice(0, 1);
  clients.splice(clients.indexOf(returning), 1);
  returning.finished = true; // Its traffic ends here.
  await returning.comeBack();
  assert.notEqual(returning.node, leaver.name);
  await talk.rounds(5);
  assert.equal(await made(), before);
  for (const client of loyal) assert.equal(client.welcomes.length, 1, 'a removed backend keeps its sessions');

  await tell(proxy, addresses);
  const later = await arrive(18);
  assert.ok(later.some((client) => client.node === leaver.name), 'a backend that is back takes sessions');
  await talk.rounds(5);
  await talk.stop();
  for (const client of loyal) assert.equal(client.welcomes.length, 1);
  await closeAll([...clients, returning, ...late, ...later]);
  ledger.assertClean();
  await assertMoored(nodes);
  proxy.assertUntroubled();
}

test('what a removed backend still has at its drain deadline is cut, and finds another node', async (t) => {
  const { nodes, proxy } = await startSite(t, { pool: 'drain = "1s"' });
  const ledger = new Ledger();
  const clients = await Promise.all(
    Array.from({ length: 18 }, (_, i) => connect(proxy.door({ tls: i % 2 === 0 }), { transports: WAYS[i % 3], ledger })),
  );
  const talk = traffic(clients);
  await talk.rounds(1);
  const leaver = nodes[2];
  const lost = new Set((await leaver.account()).made);
  const cut = clients.filter((client) => client.node === leaver.name);
  assert.equal(cut.length, 6);
  await proxy.edit({ backends: nodes.slice(0, 2).map((node) => node.address) });
  await until('every client of it is elsewhere', () => cut.every((client) => client.welcomes.length === 2));
  assert.ok(cut.every((client) => client.node !== leaver.name));
  await talk.rounds(3);
  await talk.stop();
  await closeAll(clients);
  ledger.assertClean((entry) => lost.has(entry.sid));
  assert.equal(ledger.disconnects.length, cut.length);
  await assertMoored(nodes, { gone: lost });
});

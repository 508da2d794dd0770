// Two hundred clients connect at the same moment, exchange messages, and disconnect.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, open, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';

printFigures(import.meta.url);

const CROWD = 200;

for (const generation of ['v4', 'v2']) {
  test(`${generation}: ${CROWD} clients at once`, async (t) => {
    const { nodes, proxy } = await startSite(t, { nodes: { generation } });
    const crowds = [
      ['polling then upgrade', UPGRADING, true],
      ['websocket only', WEBSOCKET, true],
      ['polling only', POLLING, false],
    ];
    for (const [name, transports, tls] of crowds) {
      await t.test(`${name}, ${tls ? 'https' : 'http'}`, () => crowd({ nodes, proxy, generation, transports, tls }));
    }
  });
}

async function crowd({ nodes, proxy, generation, transports, tls }) {
  const ledger = new Ledger();
  const before = await assertAffinity(nodes);
  const endpoint = proxy.endpoint({ tls });
  const clients = Array.from({ length: CROWD }, () => open(endpoint, { generation, transports, ledger }));
  await Promise.all(clients.map((client) => client.waitUntilReady()));
  const talk = traffic(clients);
  await talk.rounds(5);
  await talk.stop();

  const after = await assertAffinity(nodes);
  const shares = after.map((stats, i) => stats.made.length - before[i].made.length);
  assert.equal(shares.reduce((a, b) => a + b), CROWD, 'exactly one session for each client');
  const fair = CROWD / nodes.length;
  for (const share of shares) assert.ok(Math.abs(share - fair) <= fair / 4, `shares ${shares} are about equal`);
  assert.equal(ledger.upgrades, transports === UPGRADING ? CROWD : 0);
  await closeAll(clients);
  ledger.assertClean();
  proxy.assertNoFaults();
}

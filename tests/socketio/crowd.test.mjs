// Two hundred clients at once: they arrive in the same moment, talk, and leave.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, open, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertMoored, Ledger, printFigures } from './lib/ledger.mjs';
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
    for (const [way, transports, tls] of crowds) {
      await t.test(`${way}, ${tls ? 'https' : 'http'}`, () => crowd({ nodes, proxy, generation, transports, tls }));
    }
  });
}

async function crowd({ nodes, proxy, generation, transports, tls }) {
  const ledger = new Ledger();
  const before = await assertMoored(nodes);
  const door = proxy.door({ tls });
  const clients = Array.from({ length: CROWD }, () => open(door, { generation, transports, ledger }));
  await Promise.all(clients.map((client) => client.settle()));
  const talk = traffic(clients);
  await talk.rounds(5);
  await talk.stop();

  const after = await assertMoored(nodes);
  const shares = after.map((account, i) => account.made.length - before[i].made.length);
  assert.equal(shares.reduce((a, b) => a + b), CROWD, 'a session for each client and none besides');
  const fair = CROWD / nodes.length;
  for (const share of shares) assert.ok(Math.abs(share - fair) <= fair / 4, `shares ${shares} are about equal`);
  assert.equal(ledger.upgrades, transports === UPGRADING ? CROWD : 0);
  await closeAll(clients);
  ledger.assertClean();
  proxy.assertUntroubled();
}

// A route that is split between two pools, while its weights change.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, converse, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';

printFigures(import.meta.url);

const split = (chat, next) => `[[routes]]
split = [{ pool = "chat", weight = ${chat} }, { pool = "next", weight = ${next} }]`;

test('sessions stay in their pool while the weights change', async (t) => {
  const listed = ([chat, next]) => ({
    backends: [chat],
    extra: `[pools.next]\nbackends = [${JSON.stringify(next)}]\n`,
    routes: split(1, 1),
  });
  const { nodes, proxy } = await startSite(t, { count: 2, listed });
  const ledger = new Ledger();
  const ways = [UPGRADING, POLLING, WEBSOCKET].flatMap((way) => Array(8).fill(way));
  const open = (transports) => connect(proxy.endpoint(), { generation: 'v4', transports, ledger });
  const clients = await Promise.all(ways.map(open));
  assert.equal(new Set(clients.map((client) => client.node)).size, 2);
  const talk = traffic(clients);
  for (const weights of [[1, 0], [0, 1]]) {
    await proxy.edit({ routes: split(...weights) });
    await talk.rounds(2);
    const [one, other] = await Promise.all([open(UPGRADING), open(POLLING)]);
    assert.equal(one.node, other.node);
    assert.equal(one.node, nodes[weights.indexOf(1)].name);
    clients.push(one, other);
  }
  await talk.stop();
  await Promise.all(clients.map(converse));
  await closeAll(clients);
  ledger.assertClean();
  await assertAffinity(nodes);
  proxy.assertNoFaults();
});

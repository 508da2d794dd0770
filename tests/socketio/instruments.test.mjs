// Tests of the suite's own checks, without a proxy: they pass if nothing is wrong and fail otherwise.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, converse, open, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger } from './lib/ledger.mjs';
import { startNodes, stopNodes } from './lib/nodes.mjs';
import { startScatter } from './lib/scatter.mjs';
import { traffic } from './lib/traffic.mjs';
import { until } from './lib/wait.mjs';

for (const generation of ['v4', 'v2']) {
  test(`${generation}: a client and its node without a proxy have no errors`, async (t) => {
    const nodes = await startNodes(1, { generation });
    t.after(() => stopNodes(nodes));
    const ledger = new Ledger();
    for (const transports of [UPGRADING, WEBSOCKET, POLLING]) {
      const client = await connect({ ports: [nodes[0].port] }, { generation, transports, ledger });
      const talk = traffic([client]);
      await talk.rounds(3);
      await talk.stop();
      await converse(client);
      await client.close();
    }
    ledger.assertClean();
    assert.equal(ledger.upgrades, 1);
    const [stats] = await assertAffinity(nodes);
    assert.equal(stats.made.length, 3);
  });

  test(`${generation}: requests scattered over nodes are detected by clients and nodes`, async (t) => {
    const nodes = await startNodes(3, { generation });
    t.after(() => stopNodes(nodes));
    const scatter = await startScatter(nodes);
    t.after(() => scatter.stop());
    const ledger = new Ledger();
    const client = open(scatter.endpoint, { generation, transports: POLLING, ledger });
    await until('a code-1 reply', () => ledger.unknown.length > 0);
    await closeAll([client]);
    assert.throws(() => ledger.assertClean(), /code-1 replies/);
    await assert.rejects(assertAffinity(nodes), /wrong node/);
  });

  test(`${generation}: a killed node is detected as disconnects`, async (t) => {
    const nodes = await startNodes(1, { generation });
    t.after(() => stopNodes(nodes));
    const ledger = new Ledger();
    const endpoint = { ports: [nodes[0].port] };
    const clients = [
      await connect(endpoint, { generation, ledger }),
      await connect(endpoint, { generation, ledger, transports: POLLING }),
    ];
    await nodes[0].kill();
    await until('both disconnects', () => ledger.disconnects.length === 2);
    await closeAll(clients);
    assert.throws(() => ledger.assertClean(), /disconnects/);
  });
}

// The suite's own instruments, without a proxy: silent where nothing is wrong, loud where something is.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, converse, open, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertMoored, Ledger } from './lib/ledger.mjs';
import { startNodes, stopNodes } from './lib/nodes.mjs';
import { startScatter } from './lib/scatter.mjs';
import { traffic } from './lib/traffic.mjs';
import { until } from './lib/wait.mjs';

for (const generation of ['v4', 'v2']) {
  test(`${generation}: a client and its node alone are clean`, async (t) => {
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
    const [account] = await assertMoored(nodes);
    assert.equal(account.made.length, 3);
  });

  test(`${generation}: requests scattered over nodes are seen by client and node alike`, async (t) => {
    const nodes = await startNodes(3, { generation });
    t.after(() => stopNodes(nodes));
    const scatter = await startScatter(nodes);
    t.after(() => scatter.stop());
    const ledger = new Ledger();
    const client = open(scatter.door, { generation, transports: POLLING, ledger });
    await until('a code-1 reply', () => ledger.unknown.length > 0);
    await closeAll([client]);
    assert.throws(() => ledger.assertClean(), /code-1 replies/);
    await assert.rejects(assertMoored(nodes), /wrong node/);
  });

  test(`${generation}: a killed node is seen as disconnects`, async (t) => {
    const nodes = await startNodes(1, { generation });
    t.after(() => stopNodes(nodes));
    const ledger = new Ledger();
    const door = { ports: [nodes[0].port] };
    const clients = [
      await connect(door, { generation, ledger }),
      await connect(door, { generation, ledger, transports: POLLING }),
    ];
    await nodes[0].kill();
    await until('both disconnects', () => ledger.disconnects.length === 2);
    await closeAll(clients);
    assert.throws(() => ledger.assertClean(), /disconnects/);
  });
}

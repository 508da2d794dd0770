// Two proxies that share nothing but the cookie key, and clients whose every request goes to the other one:
// what the sid table of one does not know, an owner search finds.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { closeAll, connect, converse, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertMoored, Ledger, printFigures } from './lib/ledger.mjs';
import { scratch } from './lib/process.mjs';
import { frontDoor } from './lib/proxy.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

for (const generation of ['v4', 'v2']) {
  test(`${generation}: each request to either of two proxies, without cookies`, async (t) => {
    const { nodes, proxies } = await startPair(t, { generation });
    for (const tls of [false, true]) {
      const ledger = new Ledger();
      const door = frontDoor(proxies, { tls });
      const ways = [UPGRADING, POLLING, WEBSOCKET].flatMap((way) => Array(10).fill(way));
      const clients = await Promise.all(ways.map((transports) => connect(door, { generation, transports, ledger })));
      const talk = traffic(clients);
      await talk.rounds(5);
      await talk.stop();
      await Promise.all(clients.map(converse));
      await closeAll(clients);
      ledger.assertClean();
      assert.equal(ledger.upgrades, 10);
      await assertMoored(nodes, { search: true });
    }
    for (const proxy of proxies) {
      proxy.assertUntroubled();
      await until('a search by each proxy in its log', () => searches(proxy).length > 0);
    }
  });

  test(`${generation}: polls to one proxy, upgrades to the other, without cookies`, async (t) => {
    const { nodes, proxies } = await startPair(t, { generation });
    const ledger = new Ledger();
    for (const tls of [false, true]) {
      const [polls, upgrades] = proxies.map((proxy) => proxy.door({ tls }));
      const door = { ...polls, upgradePort: upgrades.ports[0] };
      const clients = await Promise.all(Array.from({ length: 15 }, () => connect(door, { generation, ledger })));
      await Promise.all(clients.map(converse));
      await closeAll(clients);
    }
    ledger.assertClean();
    assert.equal(ledger.upgrades, 30);
    await assertMoored(nodes, { search: true });
    for (const proxy of proxies) proxy.assertUntroubled();
    const upgraded = () => searches(proxies[1]).filter((line) => line.status === 101);
    await until(() => `30 upgrades by search, now ${upgraded().length}`, () => upgraded().length === 30);
    assert.deepEqual(searches(proxies[0]), []);
  });

  test(`${generation}: one proxy's cookie leads the other straight to the node`, async (t) => {
    const { nodes, proxies } = await startPair(t, { generation });
    const ledger = new Ledger();
    const settings = { generation, cookies: true, ledger };
    const clients = await Promise.all(
      [UPGRADING, POLLING, WEBSOCKET].flatMap((transports) =>
        Array.from({ length: 5 }, () => connect(frontDoor(proxies), { ...settings, transports })),
      ),
    );
    await Promise.all(clients.map(converse));
    await closeAll(clients);
    ledger.assertClean();
    await assertMoored(nodes);
    for (const proxy of proxies) {
      proxy.assertUntroubled();
      assert.deepEqual(searches(proxy), []);
      const led = () => proxy.lines((line) => line.chosen_by === 'cookie');
      await until('a request that the cookie led', () => led().length > 0);
    }
  });
}

function searches(proxy) {
  return proxy.lines((line) => line.chosen_by === 'owner_search');
}

async function startPair(t, { generation }) {
  const cookieKey = join(scratch(), 'cookie.key');
  writeFileSync(cookieKey, 'for the tests of two proxies: not a secret at all\n');
  return startSite(t, { nodes: { generation }, doors: 2, cookieKey });
}

// Two proxies that share only the cookie key, and clients whose requests alternate between them: an owner search
// finds sessions that are not in the session table of a proxy.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { closeAll, connect, converse, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { scratch } from './lib/process.mjs';
import { endpointOf } from './lib/proxy.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

for (const generation of ['v4', 'v2']) {
  test(`${generation}: each request to either of two proxies, without cookies`, async (t) => {
    const { nodes, proxies } = await startPair(t, { generation });
    for (const tls of [false, true]) {
      const ledger = new Ledger();
      const endpoint = endpointOf(proxies, { tls });
      const ways = [UPGRADING, POLLING, WEBSOCKET].flatMap((way) => Array(10).fill(way));
      const clients = await Promise.all(ways.map((transports) => connect(endpoint, { generation, transports, ledger })));
      const talk = traffic(clients);
      await talk.rounds(5);
      await talk.stop();
      await Promise.all(clients.map(converse));
      await closeAll(clients);
      ledger.assertClean();
      assert.equal(ledger.upgrades, 10);
      await assertAffinity(nodes, { search: true });
    }
    for (const proxy of proxies) {
      proxy.assertNoFaults();
      await until('an owner search in the log of each proxy', () => searches(proxy).length > 0);
    }
  });

  test(`${generation}: polls to one proxy, upgrades to the other, without cookies`, async (t) => {
    const { nodes, proxies } = await startPair(t, { generation });
    const ledger = new Ledger();
    for (const tls of [false, true]) {
      const [polls, upgrades] = proxies.map((proxy) => proxy.endpoint({ tls }));
      const endpoint = { ...polls, upgradePort: upgrades.ports[0] };
      const clients = await Promise.all(Array.from({ length: 15 }, () => connect(endpoint, { generation, ledger })));
      await Promise.all(clients.map(converse));
      await closeAll(clients);
    }
    ledger.assertClean();
    assert.equal(ledger.upgrades, 30);
    await assertAffinity(nodes, { search: true });
    for (const proxy of proxies) proxy.assertNoFaults();
    const upgraded = () => searches(proxies[1]).filter((line) => line.status === 101);
    await until(() => `30 upgrades by search, now ${upgraded().length}`, () => upgraded().length === 30);
    assert.deepEqual(searches(proxies[0]), []);
  });

  test(`${generation}: the other proxy uses the cookie without an owner search`, async (t) => {
    const { nodes, proxies } = await startPair(t, { generation });
    const ledger = new Ledger();
    const settings = { generation, cookies: true, ledger };
    const clients = await Promise.all(
      [UPGRADING, POLLING, WEBSOCKET].flatMap((transports) =>
        Array.from({ length: 5 }, () => connect(endpointOf(proxies), { ...settings, transports })),
      ),
    );
    await Promise.all(clients.map(converse));
    await closeAll(clients);
    ledger.assertClean();
    await assertAffinity(nodes);
    for (const proxy of proxies) {
      proxy.assertNoFaults();
      assert.deepEqual(searches(proxy), []);
      const byCookie = () => proxy.lines((line) => line.chosen_by === 'cookie');
      await until('a request assigned by its cookie', () => byCookie().length > 0);
    }
  });
}

function searches(proxy) {
  return proxy.lines((line) => line.chosen_by === 'owner_search');
}

async function startPair(t, { generation }) {
  const cookieKey = join(scratch(), 'cookie.key');
  writeFileSync(cookieKey, 'for the tests of two proxies: not a secret at all\n');
  return startSite(t, { nodes: { generation }, proxies: 2, cookieKey });
}

// Fifty reloads during traffic do not affect open sessions.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { closeAll, connect, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { configuration } from './lib/proxy.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';

printFigures(import.meta.url);

const RELOADS = 50;

/** Changes of the configuration that must not affect open sessions. */
const EDITS = [
  ['a comment', ({ text }) => ({ text: `# ${performance.now()}\n${text}` })],
  ['another order of backends', ({ backends }) => ({ backends: [...backends].reverse() })],
  ['another pool and a route to it', () => ({
    extra: '[pools.other]\nbackends = ["127.0.0.1:9"]\n[[routes]]\nhost = "other.test"\npool = "other"',
  })],
  ['SIGHUP', null],
  ['another listener', () => ({ extra: '[listeners.third]\nbind = "127.0.0.1:0"\nprotocol = "http"' })],
  ['another policy', () => ({ pool: 'balance = "round-robin"' })],
  ['a weight', ({ backends }) => ({
    backends: [`{ address = "${backends[0]}", weight = 2 }`, ...backends.slice(1)],
  })],
  ['other deadlines and probes', () => ({
    pool: 'timeouts = { response_header = "90s" }\nhealth = { probe = "http", path = "/healthz", interval = "500ms" }',
  })],
  ['no cookie', () => ({ pool: 'sticky = { cookie = false }' })],
  ['the original configuration', () => ({})],
];

for (const generation of ['v4', 'v2']) {
  test(`${generation}: ${RELOADS} reloads during traffic`, async (t) => {
    const { nodes, proxy } = await startSite(t, { nodes: { generation } });
    const backends = nodes.map((node) => node.address);
    const ledger = new Ledger();
    const ways = [UPGRADING, WEBSOCKET, POLLING].flatMap((way) => Array(8).fill(way));
    const clients = await Promise.all(
      ways.map((transports, i) => connect(proxy.endpoint({ tls: i % 2 === 0 }), { generation, transports, ledger })),
    );
    const talk = traffic(clients);
    for (let i = 0; i < RELOADS; i++) {
      const [, edit] = EDITS[i % EDITS.length];
      const text = configuration({ backends, accessLog: proxy.log });
      const reloaded = edit ? proxy.edit(edit({ backends, text })) : proxy.sendHangup();
      // A client connects during the reload, and disconnects after it.
      const newClient = await connect(proxy.endpoint({ tls: i % 2 === 0 }), { generation, transports: ways[i % ways.length], ledger });
      assert.equal(await newClient.ask('echo', i), i);
      await reloaded;
      await newClient.close();
    }
    await talk.rounds(2);
    await talk.stop();
    await closeAll(clients);
    ledger.assertClean();
    assert.equal(await proxy.metric('moorline_reloads_total', 'refused'), 0);
    assert.equal(await proxy.metric('moorline_backend_up'), nodes.length);
    const down = proxy.child.output.split('\n').filter((line) => /backend is down pool="chat"/.test(line));
    assert.deepEqual(down, []);
    await assertAffinity(nodes);
    proxy.assertNoFaults();
  });
}

test('an invalid file is rejected with the line of its error and changes nothing', async (t) => {
  const { nodes, proxy } = await startSite(t);
  const backends = nodes.map((node) => node.address);
  const ledger = new Ledger();
  const clients = await Promise.all([UPGRADING, WEBSOCKET, POLLING].map((transports) => connect(proxy.endpoint(), { transports, ledger })));
  const talk = traffic(clients);
  const text = configuration({ backends, accessLog: proxy.log });
  await proxy.edit({ text: text.replace('backends =', 'backnds =') });
  assert.equal(await proxy.metric('moorline_reloads_total', 'refused'), 1);
  assert.match(proxy.child.output, /moorline\.toml:\d+:\d+/);
  assert.match(proxy.child.output, /backends/);
  clients.push(await connect(proxy.endpoint({ tls: true }), { ledger }));
  await proxy.edit({});
  await talk.rounds(2);
  await talk.stop();
  await closeAll(clients);
  ledger.assertClean();
  await assertAffinity(nodes);
  proxy.assertNoFaults();
});

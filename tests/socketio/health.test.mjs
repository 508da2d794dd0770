// A node whose event loop is dead while something in front of it says that all is well: the engine.io probe finds
// it, the http and tcp probes do not. Probes leave no session behind.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { startFrontedNode, startNode, stopNodes } from './lib/nodes.mjs';
import { startProxy } from './lib/proxy.mjs';
import { until } from './lib/wait.mjs';

const TERMS = 'interval = "200ms", timeout = "200ms", rise = 2, fall = 2';
const PROBES = { engine: '"engine.io"', http: '"http", path = "/healthz"', tcp: '"tcp"' };

/** One proxy with a pool for each probe, all of the same node. */
async function probed(t, node) {
  const pools = Object.entries(PROBES).map(
    ([name, probe]) => `
[[routes]]
host = "${name}.test"
pool = "${name}"

[pools.${name}]
backends = ["${node.address}"]
health = { probe = ${probe}, ${TERMS} }
`,
  );
  const proxy = await startProxy({ backends: [node.address], extra: pools.join('') });
  t.after(async () => {
    await proxy.stop();
    await stopNodes([node]);
  });
  return proxy;
}

/** Which pools' backend is up. */
async function up(proxy) {
  const pools = Object.keys(PROBES);
  const states = await Promise.all(pools.map((name) => proxy.metric('moorline_backend_up', `pool="${name}"`)));
  return pools.filter((_, i) => states[i] === 1).join(' ');
}

for (const generation of ['v4', 'v2']) {
  test(`${generation}: a dead event loop behind a 200 is found by the engine.io probe alone`, async (t) => {
    const node = await startFrontedNode({ generation });
    const proxy = await probed(t, node);
    await until('all probes succeed', async () => (await up(proxy)) === 'engine http tcp');
    // Each probe is a session that has an end.
    await until('some probes', async () => (await node.account()).made > 5);
    await until('no session but the one under way', async () => (await node.account()).open === 0);

    node.order('block');
    await until('the dead loop is found', async () => (await up(proxy)) === 'http tcp');
    node.order('unblock');
    await until('it lives again', async () => (await up(proxy)) === 'engine http tcp');
  });

  test(`${generation}: a stopped process is found by the engine.io and http probes, and not by tcp`, async (t) => {
    const node = await startNode({ generation });
    const proxy = await probed(t, node);
    await until('all probes succeed', async () => (await up(proxy)) === 'engine http tcp');
    node.child.signal('SIGSTOP');
    await until('the stopped one is found', async () => (await up(proxy)) === 'tcp');
    node.child.signal('SIGCONT');
    await until('it is back', async () => (await up(proxy)) === 'engine http tcp');
    const { made, unknown, disconnects } = await node.account();
    assert.ok(made.length > 0);
    assert.deepEqual(unknown, [], 'no probe names a session that is not there');
    // Socket.IO 2 takes every session for a client; all of them left by themselves.
    assert.deepEqual(Object.keys(disconnects).filter((reason) => !/close/.test(reason)), []);
  });
}

test('a node that has no WebSocket is well, and keeps no session either', async (t) => {
  const polling = await startNode({ engine: { transports: ['polling'] } });
  const proxy = await probed(t, polling);
  await until('all probes succeed', async () => (await up(proxy)) === 'engine http tcp');
  const known = async () => (await polling.account()).made.length;
  const before = await known();
  await until('some probes more', async () => (await known()) > before + 3);
  await until('no session is left', async () => (await polling.account()).open === 0);
  assert.equal(await up(proxy), 'engine http tcp');
});

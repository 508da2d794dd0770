// A node with a blocked event loop behind a front that reports health: the engine.io probe fails, the http and tcp
// probes succeed. Health checks leave no session behind.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { startFrontedNode, startNode, stopNodes } from './lib/nodes.mjs';
import { startProxy } from './lib/proxy.mjs';
import { until } from './lib/wait.mjs';

const SETTINGS = 'interval = "200ms", timeout = "200ms", rise = 2, fall = 2';
const PROBES = { engine: '"engine.io"', http: '"http", path = "/healthz"', tcp: '"tcp"' };

/** Starts a proxy with one pool for each probe, all with the same node. */
async function startProbingProxy(t, node) {
  const pools = Object.entries(PROBES).map(
    ([name, probe]) => `
[[routes]]
host = "${name}.test"
pool = "${name}"

[pools.${name}]
backends = ["${node.address}"]
health = { probe = ${probe}, ${SETTINGS} }
`,
  );
  const proxy = await startProxy({ backends: [node.address], extra: pools.join('') });
  t.after(async () => {
    await proxy.stop();
    await stopNodes([node]);
  });
  return proxy;
}

/** Names of the pools whose backend is up. */
async function up(proxy) {
  const pools = Object.keys(PROBES);
  const states = await Promise.all(pools.map((name) => proxy.metric('moorline_backend_up', `pool="${name}"`)));
  return pools.filter((_, i) => states[i] === 1).join(' ');
}

for (const generation of ['v4', 'v2']) {
  test(`${generation}: a blocked event loop behind a 200 is detected by the engine.io probe only`, async (t) => {
    const node = await startFrontedNode({ generation });
    const proxy = await startProbingProxy(t, node);
    await until('all probes succeed', async () => (await up(proxy)) === 'engine http tcp');
    // Each engine.io health check opens a session and closes it.
    await until('some health checks', async () => (await node.stats()).made > 5);
    await until('no open session', async () => (await node.stats()).open === 0);

    node.command('block');
    await until('the blocked event loop is detected', async () => (await up(proxy)) === 'http tcp');
    node.command('unblock');
    await until('the event loop runs again', async () => (await up(proxy)) === 'engine http tcp');
  });

  test(`${generation}: a stopped process is detected by the engine.io and http probes, not by the tcp probe`, async (t) => {
    const node = await startNode({ generation });
    const proxy = await startProbingProxy(t, node);
    await until('all probes succeed', async () => (await up(proxy)) === 'engine http tcp');
    node.child.signal('SIGSTOP');
    await until('the stopped process is detected', async () => (await up(proxy)) === 'tcp');
    node.child.signal('SIGCONT');
    await until('the process runs again', async () => (await up(proxy)) === 'engine http tcp');
    const { made, unknown, disconnects } = await node.stats();
    assert.ok(made.length > 0);
    assert.deepEqual(unknown, [], 'no health check uses an unknown session');
    // Socket.IO 2 counts each session as a client; all of them disconnected by themselves.
    assert.deepEqual(Object.keys(disconnects).filter((reason) => !/close/.test(reason)), []);
  });
}

test('a node without WebSocket passes the engine.io probe, which leaves no session behind', async (t) => {
  const polling = await startNode({ engine: { transports: ['polling'] } });
  const proxy = await startProbingProxy(t, polling);
  await until('all probes succeed', async () => (await up(proxy)) === 'engine http tcp');
  const sessionCount = async () => (await polling.stats()).made.length;
  const before = await sessionCount();
  await until('more health checks', async () => (await sessionCount()) > before + 3);
  await until('no session is left', async () => (await polling.stats()).open === 0);
  assert.equal(await up(proxy), 'engine http tcp');
});

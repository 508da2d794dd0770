// The load harness against real nodes: each kind of client, both generations, each kind of payload, and the errors
// that it must report.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { errors, Load, load } from './lib/load.mjs';
import { assertAffinity } from './lib/ledger.mjs';
import { startNode, startNodes, stopNodes } from './lib/nodes.mjs';
import { startScatter } from './lib/scatter.mjs';
import { startSite } from './lib/site.mjs';
import { until } from './lib/wait.mjs';

const KINDS = ['polling-upgrade', 'websocket', 'polling'];
const PAYLOADS = ['text', 'json', 'binary'];
const CLIENTS = 6;
const MESSAGES = 4;
const TALK = ['--clients', CLIENTS, '--ramp', '100ms', '--messages', MESSAGES, '--every', '50ms', '--hold', '30s'];

/** Starts one node for a test. */
async function singleNode(t, options) {
  const node = await startNode(options);
  t.after(() => stopNodes([node]));
  return { node, url: `http://${node.address}/` };
}

/** Asserts that all clients connected, got all answers and disconnected, without errors. */
function assertPerfect(run, { kind, size = 64 }) {
  const { totals, output } = run;
  assert.deepEqual(run.errors, [], output);
  assert.equal(run.code, 0, output);
  assert.equal(totals.connects, CLIENTS);
  assert.equal(totals.upgrades, kind === 'polling-upgrade' ? CLIENTS : 0);
  assert.equal(totals.sent, CLIENTS * MESSAGES);
  assert.equal(totals.answered, CLIENTS * MESSAGES);
  assert.equal(totals.bytes_sent, CLIENTS * MESSAGES * size);
  assert.equal(totals.finished, CLIENTS);
  assert.equal(totals.disconnects + totals.misrouted, 0);
  assert.equal(run.latency.message.count, CLIENTS * MESSAGES);
  assert.equal(run.latency.connect.count, CLIENTS);
}

/** Number of sessions of a run: its clients, and one that first checks the target. */
const withProbe = (clients) => clients + 1;

/** Asserts that a node had this number of sessions, and that clients closed all of them. */
async function assertCleanDisconnects(node, sessions) {
  const stats = await until('all sessions have ended', async () => {
    const stats = await node.stats();
    return stats.open === 0 && stats;
  });
  assert.equal(stats.made.length, sessions);
  assert.deepEqual(stats.unknown, []);
  assert.deepEqual(stats.disconnects, { 'client namespace disconnect': sessions });
}

for (const [name, generation, eio, engine] of [
  ['v4 nodes', 'v4', 4, {}],
  ['v2 nodes', 'v2', 3, {}],
  ['v4 nodes that allow v2 clients', 'v4', 3, { allowEIO3: true }],
]) {
  test(name, async (t) => {
    const { node, url } = await singleNode(t, { generation, engine });
    let sessions = 0;
    for (const kind of KINDS) {
      for (const payload of PAYLOADS) {
        for (const answer of ['ack', 'echo']) {
          sessions += withProbe(CLIENTS);
          await t.test(`${kind}, ${payload}, ${answer}`, async () => {
            const size = payload === 'binary' ? 3000 : 64;
            const what = ['--payload', payload, '--answer', answer, '--size', size];
            const run = await load([url, '--client', kind, '--eio', eio, ...TALK, ...what]);
            assertPerfect(run, { kind, size });
            assert.deepEqual(run.nodes.map(({ name, sessions }) => [name, sessions]), [['a', CLIENTS]]);
            await assertCleanDisconnects(node, sessions);
          });
        }
      }
    }
  });

  test(`${name}: heartbeats and messages to all`, async (t) => {
    const heartbeat = { pingInterval: 300, pingTimeout: 200 };
    const { node, url } = await singleNode(t, { generation, engine: { ...engine, ...heartbeat } });
    for (const [i, kind] of KINDS.entries()) {
      await t.test(kind, async () => {
        const silent = ['--silent', '--broadcast-every', '200ms', '--hold', '2s', '--timeout', '5s'];
        const run = await load([url, '--client', kind, '--eio', eio, '--clients', 3, '--ramp', '0s', ...silent]);
        assert.deepEqual(run.errors, [], run.output);
        assert.equal(run.totals.connects, 3);
        assert.equal(run.totals.finished, 3);
        // Each client also receives its own messages; the last message can be lost when all disconnect.
        const perMessage = run.totals.broadcasts / run.totals.sent;
        assert.ok(run.totals.sent >= 5 && perMessage > 2 && perMessage <= 3, JSON.stringify(run.totals));
        assert.equal(run.latency.broadcast.count, run.totals.broadcasts);
        await assertCleanDisconnects(node, withProbe(3) * (i + 1));
      });
    }
  });
}

test('through the proxy over TLS, with cookies, each kind of client', async (t) => {
  const { nodes, proxy } = await startSite(t);
  const url = `https://localhost:${proxy.endpoint({ tls: true }).ports[0]}/`;
  for (const kind of KINDS) {
    const run = await load([url, '--insecure', '--cookies', '--client', kind, ...TALK, '--max-errors', 0]);
    assertPerfect(run, { kind });
    assert.equal(run.nodes.length, nodes.length);
  }
  await assertAffinity(nodes);
  proxy.assertNoFaults();
});

test('a wrong answer is reported', async (t) => {
  const { url } = await singleNode(t);
  // This listener answers with the node's name.
  const run = await load([url, ...TALK, '--event', 'join', '--max-errors', 3]);
  assert.equal(run.code, 1);
  assert.match(run.output, /errors/);
  assert.deepEqual(errors(run), { wrong_echo: CLIENTS * MESSAGES });
  assert.equal(run.totals.answered, 0);
});

test('a missing answer is reported', async (t) => {
  const { url } = await singleNode(t);
  const run = await load([url, ...TALK, '--event', 'no listener', '--timeout', '1s']);
  assert.deepEqual(errors(run), { timeout: CLIENTS * MESSAGES });
  assert.equal(run.totals.finished, CLIENTS);
});

test('a balancer without affinity is reported as code 1 and by the names of the nodes', async (t) => {
  const nodes = await startNodes(2);
  const scatter = await startScatter(nodes);
  t.after(() => stopNodes(nodes).then(scatter.stop));
  const url = `http://127.0.0.1:${scatter.endpoint.ports[0]}/`;
  const hold = ['--hold', '3s', '--max-code1', 0, '--max-misrouted', 0];
  const run = await load([url, '--client', 'polling', '--clients', 4, '--ramp', '100ms', '--no-reconnect', ...hold]);
  assert.equal(run.code, 1);
  assert.ok(errors(run).code1 > 0, run.output);
  assert.ok(run.totals.misrouted > 0);
  assert.match(run.misrouting, /^a session of [ab] was answered by [ab]$/);
});

test('each client of a killed node counts as a disconnect and reconnects', async (t) => {
  await Promise.all(KINDS.map((kind) => killed(t, kind)));
});

async function killed(t, kind) {
  const { node } = await singleNode(t);
  const url = `http://${node.address}/`;
  const run = new Load([url, '--client', kind, '--clients', 4, '--ramp', '0s', '--hold', '9s', '--max-disconnects', 0]);
  await until('all have connected', async () => (await node.stats()).connected === withProbe(4));
  await node.kill();
  const { node: next } = await restartedNode(t, node);
  const { totals, code, output } = await run.end();
  assert.equal(code, 1, output);
  assert.match(output, /4 disconnects/);
  assert.equal(totals.disconnects, 4);
  assert.equal(totals.connects, 8);
  assert.equal(totals.finished, 4);
  await assertCleanDisconnects(next, 4);
}

test('a herd disconnects at once and reconnects, with nodes of both generations', async (t) => {
  for (const [generation, eio] of [['v4', 4], ['v2', 3]]) {
    await Promise.all(
      KINDS.map(async (kind) => {
        const { url } = await singleNode(t, { generation });
        const herd = ['--after', '1s', '--within', '200ms', '--hold', '3s', '--silent', '--max-errors', 0];
        const clients = ['--client', kind, '--eio', eio, '--clients', CLIENTS, '--ramp', '100ms', '--max-disconnects', 0];
        const { totals, code, output } = await load([url, ...clients, ...herd], { command: 'herd' });
        assert.equal(code, 0, output);
        assert.equal(totals.dropped, CLIENTS, output);
        assert.equal(totals.connects, 2 * CLIENTS, output);
        assert.equal(totals.finished, CLIENTS, output);
      }),
    );
  }
});

/** Starts a node with the options and on the port of a killed one. */
async function restartedNode(t, { options, port }) {
  return singleNode(t, { ...options, port });
}

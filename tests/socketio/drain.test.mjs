// SIGTERM: no new connections; requests and tunnels end by themselves or at the deadline; exit code 0.

import assert from 'node:assert/strict';
import { connect as dial } from 'node:net';
import { test } from 'node:test';

import { closeAll, connect, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { Ledger, printFigures } from './lib/ledger.mjs';
import { call } from './lib/request.mjs';
import { startSite } from './lib/site.mjs';
import { traffic } from './lib/traffic.mjs';
import { soon, until } from './lib/wait.mjs';

printFigures(import.meta.url);

test('tunnels work during the shutdown, and the process ends when the last client disconnects', async (t) => {
  const { proxy } = await startSite(t, { top: 'drain = "5m"' });
  const ledger = new Ledger();
  const clients = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      connect(proxy.endpoint({ tls: i % 2 === 0 }), { transports: i % 3 ? UPGRADING : WEBSOCKET, ledger }),
    ),
  );
  const talk = traffic(clients);
  await talk.rounds(1);
  proxy.child.signal('SIGTERM');
  await until('new connections are refused', async () => (await refused(proxy.ports.get('web'))) && refused(proxy.ports.get('secure')));
  const { status } = await fetch(new URL('/ready', proxy.admin));
  assert.equal(status, 503, 'a process that shuts down is not ready');
  await talk.rounds(5);
  await talk.stop();
  assert.equal(proxy.child.end, undefined, 'the process waits for its tunnels');
  ledger.assertClean();
  await closeAll(clients);
  const end = await soon('the process ends', proxy.child.exited);
  assert.deepEqual(end, { code: 0, signal: null });
  proxy.assertNoFaults();
});

test('a pending poll gets its reply during the shutdown', async (t) => {
  const { proxy } = await startSite(t, { top: 'drain = "5m"', nodes: { engine: { pingInterval: 1500 } } });
  const port = proxy.ports.get('web');
  const path = '/socket.io/?EIO=4&transport=polling';
  const { sid } = JSON.parse((await call({ port, path })).body.slice(1));
  const poll = call({ port, path: `${path}&sid=${sid}` });
  await until('the poll is pending', async () => (await proxy.metric('moorline_backend_requests')) === 1);
  proxy.child.signal('SIGTERM');
  await until('new connections are refused', () => refused(port));
  const { status, body } = await poll;
  assert.deepEqual({ status, body }, { status: 200, body: '2' });
  assert.deepEqual(await soon('the process ends', proxy.child.exited), { code: 0, signal: null });
});

test('tunnels are closed in the second half of a shutdown, and the exit code is 0', async (t) => {
  const { proxy, took } = await shutDown(t, '"2s"');
  assert.ok(took >= 900, `the process waited ${Math.round(took)} ms`);
  assert.equal(proxy.lines(({ kind, termination }) => kind === 'tunnel' && termination === 'drained').length, 2);
});

test('connections are closed at the deadline, and the exit code is 0', async (t) => {
  const { took } = await shutDown(t, '{ within = "2s", spread = "0s" }');
  assert.ok(took >= 1900, `the process waited ${Math.round(took)} ms`);
});

/** Opens two tunnels and sends SIGTERM; resolves with the proxy and the time in ms until its process ended. */
async function shutDown(t, drain) {
  const { proxy } = await startSite(t, { top: `drain = ${drain}` });
  const ledger = new Ledger();
  const clients = await Promise.all([UPGRADING, WEBSOCKET].map((transports) => connect(proxy.endpoint(), { transports, ledger })));
  const begun = performance.now();
  proxy.child.signal('SIGTERM');
  assert.deepEqual(await soon('the process ends', proxy.child.exited), { code: 0, signal: null });
  const took = performance.now() - begun;
  await until('both clients are disconnected', () => ledger.disconnects.length === 2);
  await closeAll(clients);
  ledger.assertClean(() => true); // The proxy has ended, so later errors are expected.
  return { proxy, took };
}

test('a second SIGTERM ends the process at once', async (t) => {
  const { proxy } = await startSite(t, { top: 'drain = "5m"' });
  const ledger = new Ledger();
  const client = await connect(proxy.endpoint(), { ledger });
  proxy.child.signal('SIGTERM');
  await until('the shutdown has begun', () => refused(proxy.ports.get('web')));
  assert.equal(proxy.child.end, undefined);
  proxy.child.signal('SIGTERM');
  const { code } = await soon('the process ends', proxy.child.exited, 5000);
  assert.notEqual(code, 0, 'the exit code is not 0 if clients are disconnected');
  await closeAll([client]);
  ledger.assertClean(() => true); // The proxy has ended, so later errors are expected.
});

function refused(port) {
  return new Promise((resolve) => {
    const socket = dial(port, '127.0.0.1');
    socket.once('connect', () => resolve(socket.destroy() && false));
    socket.once('error', (error) => resolve(error.code === 'ECONNREFUSED'));
  });
}

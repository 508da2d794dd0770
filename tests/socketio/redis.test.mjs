// The Redis adapter: a room spans all nodes, whichever nodes the proxy chose for its members.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { existsSync } from 'node:fs';
import { test } from 'node:test';

import { closeAll, connect, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { assertAffinity, Ledger, printFigures } from './lib/ledger.mjs';
import { Child, scratch } from './lib/process.mjs';
import { startSite } from './lib/site.mjs';
import { until } from './lib/wait.mjs';

printFigures(import.meta.url);

test('a room spans the nodes', async (t) => {
  const redis = await startRedis(t);
  const { nodes, proxy } = await startSite(t, { nodes: { redis } });
  const ledger = new Ledger();
  const ways = [UPGRADING, WEBSOCKET, POLLING].flatMap((way) => Array(6).fill(way));
  const clients = [];
  for (const transports of ways) clients.push(await connect(proxy.endpoint({ tls: true }), { transports, ledger }));
  assert.equal(new Set(clients.map((client) => client.node)).size, nodes.length);

  const heard = new Map(clients.map((client) => [client, []]));
  for (const client of clients) {
    client.socket.on('heard', (message) => heard.get(client).push(message));
    assert.equal(await client.ask('join', 'harbour'), client.node);
  }
  const outsider = await connect(proxy.endpoint({ tls: true }), { ledger });
  outsider.socket.on('heard', () => assert.fail('a client outside the room got a message'));
  for (const [i, client] of clients.entries()) {
    client.socket.emit('shout', 'harbour', `ahoy ${i}`, () => ledger.messages++);
  }

  const all = clients.map((client, i) => `ahoy ${i} from ${client.node}`).sort();
  for (const client of clients) {
    const texts = () => heard.get(client).map(({ text, from }) => `${text} from ${from}`).sort();
    await until(() => `${texts().length} of ${all.length} heard`, () => texts().length >= all.length);
    assert.deepEqual(texts(), all);
  }
  await closeAll([...clients, outsider]);
  ledger.assertClean();
  await assertAffinity(nodes);
  proxy.assertNoFaults();
});

/** Starts a Redis without a port; resolves with the path of its socket. */
async function startRedis(t) {
  const folder = scratch();
  const path = join(folder, 'redis.sock');
  const settings = ['--port', '0', '--unixsocket', path, '--dir', folder, '--save', '', '--appendonly', 'no'];
  const redis = new Child('redis-server', settings);
  t.after(() => redis.stop('SIGKILL'));
  await until(() => `redis-server listens:\n${redis.output}`, () => existsSync(path));
  return path;
}

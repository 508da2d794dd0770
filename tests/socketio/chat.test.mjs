// The chat of deploy/docker on three nodes with Redis, behind a proxy with the configuration of the image.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { io } from 'socket.io-client';

import { Child, scratch } from './lib/process.mjs';
import { startProxy } from './lib/proxy.mjs';
import { until } from './lib/wait.mjs';

const DOCKER = fileURLToPath(new URL('../../deploy/docker/', import.meta.url));
const MODULES = fileURLToPath(new URL('./node_modules', import.meta.url));

test('messages reach clients on every node', async (t) => {
  const redis = await startRedis(t);
  const nodes = await Promise.all(['a', 'b', 'c'].map((name) => startNode(t, name, redis)));
  const proxy = await startProxy({ text: configuration(nodes.map(({ port }) => `127.0.0.1:${port}`)) });
  t.after(() => proxy.stop());
  const url = `http://127.0.0.1:${proxy.ports.get('web')}`;

  const page = await fetch(url);
  assert.equal(page.status, 200);
  assert.match(await page.text(), /socket\.io\.js/);

  const clients = [];
  for (const transports of [['polling'], ['websocket'], ['polling', 'websocket'], ['polling'], ['websocket'], ['polling']]) {
    const socket = io(url, { transports, forceNew: true });
    t.after(() => socket.close());
    const client = { socket, texts: [] };
    socket.on('node', (name) => (client.node = name));
    socket.on('message', ({ text }) => client.texts.push(text));
    await until('a node greets the client', () => client.node);
    clients.push(client);
  }
  assert.deepEqual([...new Set(clients.map(({ node }) => node))].sort(), ['a', 'b', 'c']);
  clients.forEach(({ socket }, i) => socket.emit('message', `hello ${i}`));
  const all = clients.map((_, i) => `hello ${i}`);
  for (const { texts } of clients) {
    await until(() => `all messages, now ${texts}`, () => texts.length >= all.length);
    assert.deepEqual(texts.toSorted(), all);
  }
  for (const { socket } of clients) socket.close();
  for (const { child } of nodes) assert.deepEqual(await child.stop('SIGTERM'), { code: 0, signal: null });
});

/** The configuration of the image with these backends instead of a name, and free ports. */
function configuration(backends) {
  const text = readFileSync(join(DOCKER, 'moorline.toml'), 'utf8')
    .replace(/\{ dns = "chat:3000".*\}/, JSON.stringify(backends))
    .replace('/run/moorline/', `${scratch()}/`)
    .replaceAll(/"0\.0\.0\.0:\d+"/g, '"127.0.0.1:0"');
  assert.doesNotMatch(text, /dns|\/run\/|0\.0\.0\.0/);
  return text;
}

async function startNode(t, name, redis) {
  const env = { NODE_NAME: name, PORT: '0', REDIS_URL: redis, NODE_PATH: MODULES };
  const child = new Child(process.execPath, [join(DOCKER, 'chat/server.js')], { env });
  t.after(() => child.stop('SIGKILL'));
  const port = () => child.output.match(/listens on port (\d+)/)?.[1];
  await until(() => `node ${name} listens:\n${child.output}`, port);
  return { child, port: port() };
}

async function startRedis(t) {
  const port = await freePort();
  const settings = ['--port', port, '--bind', '127.0.0.1', '--dir', scratch(), '--save', '', '--appendonly', 'no'];
  const redis = new Child('redis-server', settings.map(String));
  t.after(() => redis.stop('SIGKILL'));
  await until(() => `redis-server is ready:\n${redis.output}`, () => redis.output.includes('Ready to accept connections'));
  return `redis://127.0.0.1:${port}`;
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

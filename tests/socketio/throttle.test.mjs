// Limits of requests and of WebSocket messages, with real clients: Socket.IO, a browser, and `ws` with fragments and
// permessage-deflate.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { test } from 'node:test';

import { WebSocket, WebSocketServer } from 'ws';

import { connect, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { launch } from './lib/demo.mjs';
import { Ledger, printFigures } from './lib/ledger.mjs';
import { servePages } from './lib/page.mjs';
import { startProxy } from './lib/proxy.mjs';
import { startSite } from './lib/site.mjs';
import { soon, until } from './lib/wait.mjs';

printFigures(import.meta.url);

const KIB = 1024;
/** Text of the route, with further lines. */
const routed = (lines) => `[[routes]]\npool = "chat"\n${lines}\n`;
/** Clients reconnect soon. */
const options = { reconnectionDelay: 20 };

test('polls of a Socket.IO client do not count as requests, and its handshakes and POSTs do', async (t) => {
  const limits = 'limits = [{ rate = "20/h" }, { what = "handshakes", rate = "2/h" }]';
  const { proxy } = await startSite(t, { count: 1, routes: routed(limits) });
  const ledger = new Ledger();
  const client = await connect(proxy.endpoint(), { transports: POLLING, ledger });
  let items = 0;
  client.socket.on('item', () => items++);
  // Each answer comes with its poll; the handshake and the packet of the namespace were two requests.
  for (let turn = 0; turn < 15; turn++) await client.ask('feed', 1);
  assert.equal(items, 15);
  const polls = () => proxy.lines(({ method, status }) => method === 'GET' && status === 200).length;
  await until(() => `${polls()} lines of polls`, () => polls() >= 15);
  await client.close();
  ledger.assertClean();
  const again = new Ledger();
  const second = await connect(proxy.endpoint(), { transports: WEBSOCKET, ledger: again });
  await second.close();
  again.assertClean();
  const third = openSocket({ port: proxy.ports.get('web'), path: '/socket.io/?EIO=4&transport=websocket' });
  third.on('error', () => {});
  const [request, response] = await soon('the refusal', once(third, 'unexpected-response'));
  request.destroy();
  assert.equal(response.statusCode, 429);
});

for (const [whose, engine, cors] of [
  ['Engine.IO', (origin) => ({ cors: { origin, credentials: true } }), () => ''],
  ['the proxy', () => ({}), (origin) => `cors = { origins = ["${origin}"], credentials = true }`],
]) {
  test(`a page of another site reads why it is refused, with the CORS fields of ${whose}`, async (t) => {
    const origin = await servePages(t);
    const browser = await launch(t);
    const limits = `limits = [{ what = "handshakes", name = "opens", rate = "1/h" }]\n${cors(origin)}`;
    const { proxy } = await startSite(t, { count: 1, nodes: { engine: engine(origin) }, routes: routed(limits) });
    const page = await (await browser.newContext()).newPage();
    await page.goto(`${origin}/v4`);
    const seen = await page.evaluate(sockets, `http://127.0.0.1:${proxy.ports.get('web')}`);
    assert.equal(seen.first, 'connected');
    assert.deepEqual([seen.socketIo.status, JSON.parse(seen.socketIo.body).status], [429, 429]);
    assert.match(seen.fetched.after, /^3[56]\d\d$/);
    assert.match(seen.fetched.limit, /^"opens";r=0;t=3[56]\d\d$/);
    assert.equal(seen.fetched.policy, '"opens";q=1;w=3600');
  });
}

/** Runs in the page: opens two sockets, and fetches a handshake. */
async function sockets(address) {
  const attempt = () =>
    new Promise((resolve) => {
      const socket = io(address, { forceNew: true, transports: ['polling'], reconnection: false, withCredentials: true });
      const end = (result) => (socket.disconnect(), resolve(result));
      socket.on('connect', () => end('connected'));
      socket.on('connect_error', ({ context }) => end({ status: context.status, body: context.responseText }));
    });
  const first = await attempt();
  const socketIo = await attempt();
  const { headers } = await fetch(`${address}/socket.io/?EIO=4&transport=polling`, { credentials: 'include' });
  const field = (name) => headers.get(name);
  const fetched = { after: field('retry-after'), limit: field('ratelimit'), policy: field('ratelimit-policy') };
  return { first, socketIo, fetched };
}

test('a Socket.IO message that is too large closes its socket with 1009, and the client reconnects', async (t) => {
  const { proxy } = await startSite(t, { count: 1, routes: routed('messages = { max_size = "64KiB" }') });
  for (const transports of [UPGRADING, WEBSOCKET]) {
    const ledger = new Ledger();
    const client = await connect(proxy.endpoint(), { transports, ledger, options });
    const most = 'x'.repeat(60 * KIB);
    assert.equal(await client.ask('echo', most), most);
    // Only messages to the backend are limited.
    const answer = await client.ask('echo', ...Array(20).fill('x'.repeat(3 * KIB)));
    assert.equal(answer.length, 20);
    client.socket.emit('echo', Buffer.alloc(65 * KIB));
    await until('a new session', () => client.welcomes.length === 2 && client.isReady);
    assert.equal(await client.ask('echo', 'again'), 'again');
    const [{ reason, code }] = ledger.disconnects;
    assert.deepEqual([reason, code], ['transport close', 1009]);
    await client.close();
    ledger.assertClean((entry) => entry.code === 1009);
  }
  const ended = () => proxy.lines(({ termination }) => termination === 'client_tunnel_message_too_large').length;
  await until('the lines of both tunnels', () => ended() === 2);
  proxy.assertNoFaults();
});

test('a Socket.IO client that sends too fast is slowed, and closed with 1008 if it goes on', async (t) => {
  const { proxy } = await startSite(t, { count: 1, routes: routed('messages = { rate = "50/s", burst = 20, patience = "1s" }') });
  const ledger = new Ledger();
  const client = await connect(proxy.endpoint(), { transports: WEBSOCKET, ledger, options });
  const began = performance.now();
  const burst = Array.from({ length: 40 }, (_, i) => i);
  assert.deepEqual(await Promise.all(burst.map((i) => client.ask('echo', i))), burst);
  assert.ok(performance.now() - began > 300, `${performance.now() - began} ms`);
  assert.deepEqual(ledger.disconnects, []);
  for (let i = 0; i < 500; i++) client.socket.emit('echo', i);
  await until('a new session', () => client.welcomes.length === 2 && client.isReady);
  assert.equal(await client.ask('echo', 'again'), 'again');
  assert.deepEqual(ledger.disconnects.map(({ code }) => code), [1008]);
  await client.close();
  ledger.assertClean((entry) => entry.code === 1008);
  proxy.assertNoFaults();
});

test('ws with fragments, pings and permessage-deflate', async (t) => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: { threshold: 0 }, maxPayload: 64 << 20 });
  await once(server, 'listening');
  const closes = [];
  server.on('connection', (socket) => {
    socket.on('message', (data) => socket.send(data.length));
    socket.on('close', (code) => closes.push(code));
    socket.on('error', () => {});
  });
  const backends = [`127.0.0.1:${server.address().port}`];
  const proxy = await startProxy({ backends, routes: routed('messages = { max_size = "64KiB" }') });
  t.after(async () => {
    for (const socket of server.clients) socket.terminate();
    await proxy.stop();
    server.close();
  });
  const open = async (perMessageDeflate) => {
    const socket = openSocket({ port: proxy.ports.get('web'), perMessageDeflate });
    await soon('an open socket', once(socket, 'open'));
    const closed = once(socket, 'close');
    const answer = async () => Number((await soon('an answer', once(socket, 'message')))[0]);
    const end = async () => {
      const [code, reason] = await soon('the end', closed);
      return [code, reason.toString()];
    };
    return { socket, answer, end };
  };
  const TOO_LARGE = [1009, 'message too large'];

  // Plain: the size is that of all fragments.
  const plain = await open(false);
  for (let i = 0; i < 64; i++) {
    plain.socket.send(randomBytes(KIB), { fin: i === 63 });
    if (i % 16 === 0) plain.socket.ping();
  }
  assert.equal(await plain.answer(), 64 * KIB);
  for (let i = 0; i < 65; i++) plain.socket.send(randomBytes(KIB), { fin: i === 64 });
  assert.deepEqual(await plain.end(), TOO_LARGE);

  // One frame of 20 MB: the client has not sent all of it when it is refused.
  const large = await open(false);
  large.socket.send(randomBytes(20 << 20));
  assert.deepEqual(await large.end(), TOO_LARGE);

  // Compressed: the compressed size counts.
  const deflated = await open(true);
  assert.match(deflated.socket.extensions, /permessage-deflate/);
  deflated.socket.send(Buffer.alloc(10 << 20));
  assert.equal(await deflated.answer(), 10 << 20);
  deflated.socket.send(randomBytes(65 * KIB));
  assert.deepEqual(await deflated.end(), TOO_LARGE);

  // The backend gets the reason.
  await until('the closes of the backend', () => closes.length === 3);
  assert.deepEqual(closes, [1009, 1009, 1009]);
});

function openSocket({ port, path = '/', ...settings }) {
  return new WebSocket(`ws://127.0.0.1:${port}${path}`, settings);
}

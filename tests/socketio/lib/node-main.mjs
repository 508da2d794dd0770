// One Socket.IO node in a process of its own, of either generation: one JSON argument tells it what to be.
// Where nodes.mjs starts it, that asks for its account over the IPC channel; where there is none, it takes
// part as `moorline-load node --until-eof` does: it prints where it listens, resets its connections on the
// line `reset`, and ends with its standard input.
//
// The account is what a node alone can know: which session ids it made, which requests named which id, and
// whether it knew that id when they came. Each HTTP reply and each 101 tells the node's name as `x-node`.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import { createAdapter } from '@socket.io/redis-adapter';
import { createClient } from 'redis';
import { Server } from 'socket.io';
import ServerV2 from 'socket.io-v2';

const options = JSON.parse(process.argv[2]);
const { name, generation, host = '127.0.0.1', port = 0, redis, engine = {} } = options;

const account = { made: [], known: {}, unknown: [], preflights: 0, handshakes: 0, connected: 0, disconnects: {} };
const server = createServer((request, response) => {
  if (request.url === '/healthz') return response.end(`${name}\n`);
  response.writeHead(404).end();
});
const io = generation === 'v2' ? new ServerV2(server, engine) : new Server(server, engine);
if (redis) io.adapter(await redisAdapter(redis));

// Ahead of Engine.IO's own listeners: whether the session is known must be seen before it is dealt with.
server.prependListener('request', observe);
server.prependListener('upgrade', observe);
io.engine.on('connection', (session) => account.made.push(session.id));
io.on('connection', (socket) => serve(socket));
if (process.send) {
  process.on('disconnect', () => process.exit());
  process.on('message', ({ id }) => process.send({ id, account: { ...account, open: io.engine.clientsCount } }));
} else {
  takeLines();
}
server.listen(port, host, () => {
  // Engine.IO makes its WebSocket server anew when it listens, where it has one.
  io.engine.ws?.on('headers', (headers) => headers.push(`x-node: ${name}`));
  const { port } = server.address();
  if (process.send) process.send({ port });
  else console.log(`${name} listens on ${host}:${port}`);
});

function takeLines() {
  const connections = new Set();
  server.on('connection', (socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    if (line === 'reset') for (const socket of connections) socket.resetAndDestroy();
  });
  lines.on('close', () => process.exit());
}

function observe(request, response) {
  // An upgrade brings a bare socket.
  response.setHeader?.('x-node', name);
  const query = new URL(request.url, 'http://node').searchParams;
  if (!query.has('transport')) return;
  if (request.method === 'OPTIONS') return account.preflights++;
  const sid = query.get('sid');
  if (sid === null) return account.handshakes++;
  if (Object.hasOwn(io.engine.clients, sid)) account.known[sid] = (account.known[sid] ?? 0) + 1;
  else account.unknown.push(sid);
}

async function redisAdapter(path) {
  const publisher = createClient({ socket: { path } });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  return createAdapter(publisher, subscriber);
}

/** What clients can ask for; listeners answer by their last argument, the acknowledgement. */
function serve(socket) {
  account.connected++;
  socket.emit('welcome', { node: name, sid: socket.conn.id });
  socket.on('disconnect', (reason) => {
    account.disconnects[reason] = (account.disconnects[reason] ?? 0) + 1;
  });
  socket.on('echo', (...args) => {
    if (typeof args.at(-1) === 'function') args.pop()(...args);
    else socket.emit('echo', ...args);
  });
  socket.on('all', (...args) => io.emit('all', ...args));
  // The other way round: the node asks, the client acknowledges, the node hands on what it got.
  socket.on('ask me', (question, done) => socket.emit('question', question, (answer) => done(answer)));
  socket.on('bytes', (length, done) => done(Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 7) % 256))));
  // A numbered run of events, so that a lost, doubled or overtaken one shows.
  socket.on('feed', (count, done) => {
    for (let i = 0; i < count; i++) socket.emit('item', i);
    done(count);
  });
  socket.on('join', async (room, done) => {
    await socket.join(room);
    done(name);
  });
  socket.on('shout', (room, text, done) => {
    io.to(room).emit('heard', { room, text, from: name });
    done();
  });
}

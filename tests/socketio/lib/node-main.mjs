// The process of one Socket.IO node of either generation. The only argument is a JSON object with its options. If
// nodes.mjs started the process, it requests statistics over the IPC channel. Without an IPC channel, the process acts
// like `moorline-load node --until-eof`: it prints its address, resets its connections on the line `reset`, and ends
// with its standard input.
//
// The statistics have the ids of the node's sessions, and the session ids of requests with whether the node knew them.
// Each HTTP reply and each 101 has the name of the node in `x-node`.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import { createAdapter } from '@socket.io/redis-adapter';
import { createClient } from 'redis';
import { Server } from 'socket.io';
import ServerV2 from 'socket.io-v2';

const options = JSON.parse(process.argv[2]);
const { name, generation, host = '127.0.0.1', port = 0, redis, engine = {} } = options;

const stats = { made: [], known: {}, unknown: [], preflights: 0, handshakes: 0, connected: 0, disconnects: {} };
const server = createServer((request, response) => {
  if (request.url === '/healthz') return response.end(`${name}\n`);
  response.writeHead(404).end();
});
const io = generation === 'v2' ? new ServerV2(server, engine) : new Server(server, engine);
if (redis) io.adapter(await redisAdapter(redis));

// Before the listeners of Engine.IO, which can close the session.
server.prependListener('request', observe);
server.prependListener('upgrade', observe);
io.engine.on('connection', (session) => stats.made.push(session.id));
io.on('connection', (socket) => serve(socket));
if (process.send) {
  process.on('disconnect', () => process.exit());
  process.on('message', ({ id }) => process.send({ id, stats: { ...stats, open: io.engine.clientsCount } }));
} else {
  readCommands();
}
server.listen(port, host, () => {
  // Engine.IO creates its WebSocket server when it listens. `ws` is undefined without the WebSocket transport.
  io.engine.ws?.on('headers', (headers) => headers.push(`x-node: ${name}`));
  const { port } = server.address();
  if (process.send) process.send({ port });
  else console.log(`${name} listens on ${host}:${port}`);
});

function readCommands() {
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
  // For an upgrade, `response` is a socket.
  response.setHeader?.('x-node', name);
  const query = new URL(request.url, 'http://node').searchParams;
  if (!query.has('transport')) return;
  if (request.method === 'OPTIONS') return stats.preflights++;
  const sid = query.get('sid');
  if (sid === null) return stats.handshakes++;
  if (Object.hasOwn(io.engine.clients, sid)) stats.known[sid] = (stats.known[sid] ?? 0) + 1;
  else stats.unknown.push(sid);
}

async function redisAdapter(path) {
  const publisher = createClient({ socket: { path } });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  return createAdapter(publisher, subscriber);
}

/** Event listeners for clients; the last argument is the acknowledgement. */
function serve(socket) {
  stats.connected++;
  socket.emit('welcome', { node: name, sid: socket.conn.id });
  socket.on('disconnect', (reason) => {
    stats.disconnects[reason] = (stats.disconnects[reason] ?? 0) + 1;
  });
  socket.on('echo', (...args) => {
    if (typeof args.at(-1) === 'function') args.pop()(...args);
    else socket.emit('echo', ...args);
  });
  socket.on('all', (...args) => io.emit('all', ...args));
  // The node sends a question to the client, and returns its acknowledgement.
  socket.on('ask me', (question, done) => socket.emit('question', question, (answer) => done(answer)));
  socket.on('bytes', (length, done) => done(Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 7) % 256))));
  // Numbered events, so that tests detect lost, repeated and reordered events.
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

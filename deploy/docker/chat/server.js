// A chat on Socket.IO. Several copies share their messages over Redis:
//   REDIS_URL=redis://127.0.0.1:6379 PORT=3000 node server.js
'use strict';

const { readFileSync } = require('node:fs');
const { createServer } = require('node:http');
const { hostname } = require('node:os');
const { join } = require('node:path');

const { createAdapter } = require('@socket.io/redis-adapter');
const { createClient } = require('redis');
const { Server } = require('socket.io');

const NODE = process.env.NODE_NAME ?? hostname();
const PORT = Number(process.env.PORT ?? 3000);
const PAGE = readFileSync(join(__dirname, 'index.html'));

async function main() {
  const http = createServer((request, response) => {
    if (request.url === '/healthz') {
      response.end('ok\n');
    } else if (request.url === '/') {
      response.setHeader('Content-Type', 'text/html; charset=utf-8').end(PAGE);
    } else {
      response.writeHead(404).end('not found\n');
    }
  });
  // A balancer in front keeps idle connections for a shorter time than the node.
  http.keepAliveTimeout = 80_000;

  const io = new Server(http);
  if (process.env.REDIS_URL) {
    const publisher = createClient({ url: process.env.REDIS_URL });
    const subscriber = publisher.duplicate();
    for (const client of [publisher, subscriber]) client.on('error', (error) => console.error('redis:', error.message));
    await Promise.all([publisher.connect(), subscriber.connect()]);
    io.adapter(createAdapter(publisher, subscriber));
  }
  io.on('connection', (socket) => {
    socket.emit('node', NODE);
    socket.on('message', (text) => {
      if (typeof text === 'string' && text.length <= 1000) io.emit('message', { node: NODE, text });
    });
  });

  http.listen(PORT, () => console.log(`node ${NODE} listens on port ${http.address().port}`));
  // Moorline sends new clients to other nodes by now; the remaining clients reconnect there.
  process.once('SIGTERM', () => io.close(() => process.exit(0)));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

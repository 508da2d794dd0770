// A Socket.IO node with an event loop that can be blocked. The node runs in a worker thread. The main thread accepts
// connections and answers `/healthz` itself, like a balancer on the same machine.
//
// Started by nodes.mjs in place of node-main.mjs. Receives the commands `block` and `unblock` and requests for
// statistics over the IPC channel.

import { createServer, connect } from 'node:net';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { createServer as createHttpServer } from 'node:http';
import { fileURLToPath } from 'node:url';

import { Server } from 'socket.io';
import ServerV2 from 'socket.io-v2';

if (isMainThread) front(JSON.parse(process.argv[2]));
else engine(workerData);

/** Answers `/healthz`, and relays all other connections to the worker. */
function front({ generation }) {
  const gate = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { generation, gate } });
  let inner;
  const server = createServer((client) => {
    client.on('error', () => {});
    client.once('data', (first) => {
      if (first.toString('latin1').startsWith('GET /healthz ')) {
        return client.end('HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n');
      }
      const node = connect(inner, '127.0.0.1');
      node.on('error', () => client.destroy());
      client.on('close', () => node.destroy());
      node.on('close', () => client.destroy());
      node.write(first);
      client.pipe(node).pipe(client);
    });
  });
  worker.on('message', (message) => {
    if (message.port) {
      inner = message.port;
      return server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }));
    }
    process.send(message);
  });
  process.on('disconnect', () => process.exit());
  process.on('message', (message) => {
    if (message.command === 'unblock') {
      Atomics.store(gate, 0, 1);
      Atomics.notify(gate, 0);
    } else {
      worker.postMessage(message);
    }
  });
}

/** The node itself. */
function engine({ generation, gate }) {
  const server = createHttpServer((_, response) => response.writeHead(404).end());
  const io = generation === 'v2' ? new ServerV2(server) : new Server(server);
  let made = 0;
  io.engine.on('connection', () => made++);
  parentPort.on('message', ({ id, command }) => {
    if (command === 'block') {
      // Blocks the event loop of this thread until `unblock`.
      Atomics.store(gate, 0, 0);
      while (Atomics.load(gate, 0) === 0) Atomics.wait(gate, 0, 0);
    } else {
      parentPort.postMessage({ id, stats: { made, open: io.engine.clientsCount } });
    }
  });
  server.listen(0, '127.0.0.1', () => parentPort.postMessage({ port: server.address().port }));
}

// What a load balancer without affinity does: each connection goes to the next node. It stands in for a
// broken proxy, to show that the suite's instruments see what they are there to see.

import { createServer, connect } from 'node:net';

/** Listens on a free port and hands each connection to the next of `nodes`. */
export async function startScatter(nodes) {
  let turn = 0;
  const server = createServer((client) => {
    const backend = connect(nodes[turn++ % nodes.length].port, '127.0.0.1');
    client.pipe(backend).pipe(client);
    client.on('error', () => backend.destroy());
    backend.on('error', () => client.destroy());
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  // Two equal ports: an agent with more than one keeps no connection, so each request is scattered.
  return { door: { ports: [port, port] }, stop: () => server.close() };
}

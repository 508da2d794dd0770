// A load balancer without affinity: each connection goes to the next node. It shows that the checks of the suite
// detect misrouted requests.

import { createServer, connect } from 'node:net';

/** Listens on a free port and relays each connection to the next of `nodes`. */
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
  // With two ports, even equal ones, an agent opens a new connection for each request.
  return { endpoint: { ports: [port, port] }, stop: () => server.close() };
}

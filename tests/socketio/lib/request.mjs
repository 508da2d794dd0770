// Single HTTP requests, with headers that a script in a browser cannot set.

import http from 'node:http';
import https from 'node:https';

import { soon } from './wait.mjs';

/** Sends a request, over TLS if `ca` is set; resolves with `{ status, headers, body }`. */
export function call({ port, ca, method = 'GET', path, headers = {}, body }) {
  const { request } = ca ? https : http;
  const options = { host: '127.0.0.1', servername: 'localhost', port, ca, method, path, headers, agent: false };
  const answer = new Promise((resolve, reject) => {
    const outgoing = request({ ...options, headers: { Host: `localhost:${port}`, ...headers } }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: text }));
      response.on('error', reject);
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
  return soon(`an answer to ${method} ${path}`, answer);
}

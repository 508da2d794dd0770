// An HTTP agent for all requests of one Socket.IO client, polls and upgrades. It keeps the client's cookies, spreads
// its connections over several ports, and records errors in a ledger. Both generations of socket.io-client accept
// an agent.

import http from 'node:http';
import https from 'node:https';

const UNKNOWN = 'Session ID unknown';

/**
 * `ports`: used by requests in turn; with more than one port, connections are not kept open. `upgradePort`: port for
 * upgrades instead of `ports`. `ca`: authority of the server's certificate; without it, plain HTTP is used.
 */
export function watchedAgent({ ports, upgradePort, ca, cookies, ledger }) {
  const Base = ca ? https.Agent : http.Agent;
  const what = { ports, upgradePort, cookies, ledger, secure: Boolean(ca) };
  return new (watch(Base))(what, { keepAlive: ports.length === 1, ca });
}

const watch = (Base) =>
  class extends Base {
    constructor({ cookies, ...what }, options) {
      super(options);
      Object.assign(this, { ...what, turn: 0, finished: false });
      /** Cookie name → value; `undefined` for a client without cookies. */
      this.jar = cookies ? new Map() : undefined;
      /** All `Set-Cookie` values of replies. */
      this.offered = [];
      /** `Cookie` headers sent. */
      this.sent = [];
      /** Method and path of open requests; an upgrade is complete with its 101. */
      this.pending = new Set();
    }

    addRequest(request, options) {
      this.ledger.requests++;
      const upgrade = request.hasHeader('upgrade');
      const turn = upgrade && this.upgradePort ? this.upgradePort : this.ports[this.turn++ % this.ports.length];
      const target = { host: '127.0.0.1', port: turn, servername: 'localhost' };
      if (this.jar?.size) {
        const line = [...this.jar].map(([name, value]) => `${name}=${value}`).join('; ');
        request.setHeader('Cookie', line);
        this.sent.push(line);
      }
      const entry = { toString: () => `${request.method} ${request.path}` };
      const complete = () => this.pending.delete(entry);
      this.pending.add(entry);
      request.on('close', complete);
      if (upgrade) request.on('upgrade', (response) => (complete(), this.keep(response)));
      request.on('response', (response) => this.read(request, response, upgrade));
      super.addRequest(request, { ...options, ...target });
    }

    read(request, response, upgrade) {
      this.keep(response);
      if (response.statusCode < 400) return;
      const sid = new URL(request.path, 'http://client').searchParams.get('sid');
      let body = '';
      response.on('data', (chunk) => (body += chunk));
      response.on('close', () => {
        if (this.finished) return;
        if (body.includes(UNKNOWN)) this.ledger.unknown.push({ sid, upgrade });
        else this.ledger.errors.push({ sid, upgrade, status: response.statusCode, body: body.slice(0, 200) });
      });
    }

    keep(response) {
      for (const line of response.headers['set-cookie'] ?? []) {
        this.offered.push(line);
        const [pair, ...attributes] = line.split(';').map((part) => part.trim());
        const at = pair.indexOf('=');
        const secureOnly = attributes.some((attribute) => attribute.toLowerCase() === 'secure');
        if (this.jar && (this.secure || !secureOnly)) this.jar.set(pair.slice(0, at), pair.slice(at + 1));
      }
    }
  };

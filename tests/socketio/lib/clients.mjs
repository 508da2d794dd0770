// Socket.IO clients of both generations, which record errors in a ledger.

import { randomBytes } from 'node:crypto';
import assert from 'node:assert/strict';

import { watchedAgent } from './agent.mjs';
import { soon, until } from './wait.mjs';

// The old client would prefer the built-in WebSocket of Node.js, which accepts no agent.
delete globalThis.WebSocket;
const { io: ioV4 } = await import('socket.io-client');
const { default: ioV2 } = await import('socket.io-client-v2');

export const UPGRADING = ['polling', 'websocket'];
export const WEBSOCKET = ['websocket'];
export const POLLING = ['polling'];

/** Clients that are not closed. */
const present = new Set();

/** One client and its session. Most tests use `connect`, which waits until the client is ready. */
class Client {
  /** Node of the current session, and the session id. */
  node = null;
  sid = null;
  /** All `welcome` events, one for each session: `{ node, sid, at }`. */
  welcomes = [];
  finished = false;

  constructor({ ports, upgradePort, ca, generation = 'v4', transports = UPGRADING, cookies = false, ledger, options = {} }) {
    Object.assign(this, { generation, transports, ledger });
    // Clients begin with different ports.
    const turn = ledger.clients % ports.length;
    const rotated = [...ports.slice(turn), ...ports.slice(0, turn)];
    this.agent = watchedAgent({ ports: rotated, upgradePort, ca, cookies, ledger });
    const address = `${ca ? 'https' : 'http'}://localhost:${ports[0]}`;
    const settings = { transports, agent: this.agent, forceNew: true, ...options };
    if (ca) settings.ca = ca;
    ledger.clients++;
    present.add(this);
    this.socket = (generation === 'v2' ? ioV2 : ioV4)(address, settings);
    this.listen();
  }

  listen() {
    const { socket, ledger } = this;
    socket.on('welcome', ({ node, sid }) => {
      Object.assign(this, { node, sid });
      this.welcomes.push({ node, sid, at: performance.now() });
    });
    socket.on('connect', () => this.watchUpgrade(socket.io.engine));
    socket.on('disconnect', (reason, details) => {
      const { node, sid } = this;
      // The code of a Close frame, and the error of an invalid frame.
      const [code, fault] = [details?.context?.code, details?.description?.error?.code];
      Object.assign(this, { node: null, sid: null, interrupted: performance.now() });
      if (!this.finished) ledger.disconnects.push({ client: ledger.clients, node, sid, reason, code, fault });
    });
    socket.on('question', (question, answer) => answer({ question, from: 'client' }));
    const manager = this.generation === 'v2' ? socket : socket.io;
    manager.on(this.generation === 'v2' ? 'connect_error' : 'error', (error) => {
      if (!this.finished) ledger.errors.push({ sid: this.sid, error: String(error?.message ?? error) });
    });
  }

  /** Counts one upgrade for each session that began by polling and then used its WebSocket. */
  watchUpgrade(engine) {
    if (!this.transports.includes('polling') || !this.transports.includes('websocket')) return;
    const sid = engine.id;
    const succeeded = () => this.ledger.upgrades++;
    if (engine.transport.name === 'websocket') return succeeded();
    engine.once('upgrade', succeeded);
    engine.on('upgradeError', (error) => {
      if (!this.finished) this.ledger.failedUpgrades.push({ sid, error: error.message });
    });
  }

  get transport() {
    return this.socket.io.engine?.transport?.name;
  }

  /** Whether the client has a session and uses its preferred transport. */
  get isReady() {
    return this.socket.connected && this.sid !== null && this.transport === this.transports.at(-1);
  }

  async waitUntilReady(within) {
    const state = () =>
      `a ${this.generation} client over ${this.transports} is ready (connected ${this.socket.connected}, ` +
      `on ${this.transport}); ledger ${JSON.stringify(this.ledger).slice(0, 1000)}`;
    await until(state, () => this.isReady, within);
    return this;
  }

  /** Emits an event and resolves with its acknowledgement: one value, or an array of several values. */
  async ask(event, ...args) {
    const { socket, node, sid } = this;
    let lost;
    const answer = new Promise((resolve, reject) => {
      lost = (reason) => reject(new Error(`session ${sid} on ${node} ended (${reason}) before ${event} was answered`));
      socket.once('disconnect', lost);
      socket.emit(event, ...args, (...values) => resolve(values.length > 1 ? values : values[0]));
    });
    const value = await soon(() => `${event} is answered to a client on ${node}`, answer).finally(() => socket.off('disconnect', lost));
    this.ledger.messages++;
    return value;
  }

  /** Disconnects and opens a new session with the same cookies, like a page reload. */
  async reconnect() {
    const { engine } = this.socket.io;
    this.finished = this.agent.finished = true;
    this.socket.disconnect();
    await until('the old session is closed', () => engine.readyState === 'closed');
    this.finished = this.agent.finished = false;
    this.ledger.clients++;
    this.socket.connect();
    await this.waitUntilReady();
  }

  /** Disconnects, and waits until all open requests are complete. */
  async close() {
    this.finished = this.agent.finished = true;
    this.socket.disconnect();
    await until(() => `a closed client's requests end: ${[...this.agent.pending]}`, () => this.agent.pending.size === 0);
    this.abandon();
  }

  /** Disconnects without waiting. */
  abandon() {
    this.finished = this.agent.finished = true;
    this.socket.disconnect();
    this.agent.destroy();
    present.delete(this);
  }
}

/** Disconnects the clients that a failed test did not close. */
export function abandonAll() {
  for (const client of present) client.abandon();
}

/** Starts a client without waiting until it is ready. */
export function open(endpoint, settings) {
  return new Client({ ...endpoint, ...settings });
}

/** Starts a client and waits until it is connected and has upgraded if it can. */
export async function connect(endpoint, settings) {
  return open(endpoint, settings).waitUntilReady();
}

export async function closeAll(clients) {
  await Promise.all(clients.map((client) => client.close()));
}

/** Tests events, acknowledgements in both directions, order, and binary and 1 MB payloads on one client. */
export async function converse(client) {
  assert.equal(await client.ask('echo', 'hello'), 'hello');
  assert.deepEqual(await client.ask('echo', 1, { two: [3, '✓ ünïcødé 🚢'] }), [1, { two: [3, '✓ ünïcødé 🚢'] }]);
  assert.deepEqual(await client.ask('ask me', 'why'), { question: 'why', from: 'client' });

  const items = [];
  const listener = (i) => items.push(i);
  client.socket.on('item', listener);
  await client.ask('feed', 100);
  await until('100 items arrive', () => items.length >= 100);
  client.socket.off('item', listener);
  assert.deepEqual(items, Array.from({ length: 100 }, (_, i) => i));
  client.ledger.messages += 100;

  const bytes = randomBytes(5000);
  assert.deepEqual(Buffer.from(await client.ask('echo', bytes)), bytes);
  const parts = await client.ask('echo', { first: bytes, rest: [Buffer.from([0, 255, 30, 13, 10]), 'text'] });
  assert.deepEqual(Buffer.from(parts.first), bytes);
  assert.deepEqual(Buffer.from(parts.rest[0]), Buffer.from([0, 255, 30, 13, 10]));

  const long = randomBytes(500_000).toString('hex');
  assert.equal(long.length, 1_000_000);
  assert.ok((await client.ask('echo', long)) === long, 'a text of 1 MB comes back unchanged');
  const big = randomBytes(1_000_000);
  assert.ok(Buffer.from(await client.ask('echo', big)).equals(big), '1 MB of bytes comes back unchanged');
}

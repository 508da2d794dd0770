// Socket.IO clients of either generation, with everything that happens to them written into a ledger.

import { randomBytes } from 'node:crypto';
import assert from 'node:assert/strict';

import { watchedAgent } from './agent.mjs';
import { soon, until } from './wait.mjs';

// Where Node.js brings a WebSocket of its own, the old client would prefer it, and it takes no agent.
delete globalThis.WebSocket;
const { io: ioV4 } = await import('socket.io-client');
const { default: ioV2 } = await import('socket.io-client-v2');

export const UPGRADING = ['polling', 'websocket'];
export const WEBSOCKET = ['websocket'];
export const POLLING = ['polling'];

/** Clients that have not left. */
const present = new Set();

/** One client and its session. Most tests want `connect`, which waits until it is fully there. */
class Client {
  /** Node that welcomed the present session, and that session's id. */
  node = null;
  sid = null;
  /** Every welcome: `{ node, sid, at }`. */
  welcomes = [];
  finished = false;

  constructor({ ports, upgradePort, ca, generation = 'v4', transports = UPGRADING, cookies = false, ledger, options = {} }) {
    Object.assign(this, { generation, transports, ledger });
    // Not every client begins at the same front door.
    const turn = ledger.clients % ports.length;
    const doors = [...ports.slice(turn), ...ports.slice(0, turn)];
    this.agent = watchedAgent({ ports: doors, upgradePort, ca, cookies, ledger });
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
      // The code of a Close, and what the WebSocket did not understand.
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

  /** Upgrades are counted once for each session that began by polling and ended on its WebSocket. */
  watchUpgrade(engine) {
    if (!this.transports.includes('polling') || !this.transports.includes('websocket')) return;
    const sid = engine.id;
    const won = () => this.ledger.upgrades++;
    if (engine.transport.name === 'websocket') return won();
    engine.once('upgrade', won);
    engine.on('upgradeError', (error) => {
      if (!this.finished) this.ledger.failedUpgrades.push({ sid, error: error.message });
    });
  }

  get transport() {
    return this.socket.io.engine?.transport?.name;
  }

  /** Welcomed by a node, and on the transport that it prefers. */
  get settled() {
    return this.socket.connected && this.sid !== null && this.transport === this.transports.at(-1);
  }

  async settle(within) {
    const state = () =>
      `a ${this.generation} client over ${this.transports} settles (connected ${this.socket.connected}, ` +
      `on ${this.transport}); ledger ${JSON.stringify(this.ledger).slice(0, 1000)}`;
    await until(state, () => this.settled, within);
    return this;
  }

  /** Emits and resolves with what the acknowledgement brings: one value, or an array of several. */
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

  /** Leaves, as a page does on a reload, and comes with a new session and the cookies that it kept. */
  async comeBack() {
    const { engine } = this.socket.io;
    this.finished = this.agent.finished = true;
    this.socket.disconnect();
    await until('the old session is closed', () => engine.readyState === 'closed');
    this.finished = this.agent.finished = false;
    this.ledger.clients++;
    this.socket.connect();
    await this.settle();
  }

  /** Says goodbye, waits for what is under way to be answered, and is gone. */
  async close() {
    this.finished = this.agent.finished = true;
    this.socket.disconnect();
    await until(() => `a closed client's requests end: ${[...this.agent.pending]}`, () => this.agent.pending.size === 0);
    this.abandon();
  }

  /** Is gone at once. */
  abandon() {
    this.finished = this.agent.finished = true;
    this.socket.disconnect();
    this.agent.destroy();
    present.delete(this);
  }
}

/** Lets go of clients that a failed test left behind. */
export function abandonAll() {
  for (const client of present) client.abandon();
}

/** A client that may still be on its way. */
export function open(door, settings) {
  return new Client({ ...door, ...settings });
}

/** A client that is connected and, where it was to, has upgraded. */
export async function connect(door, settings) {
  return open(door, settings).settle();
}

export async function closeAll(clients) {
  await Promise.all(clients.map((client) => client.close()));
}

/** Events, acknowledgements both ways, order, binary and 1 MB payloads, on one client. */
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
  assert.ok((await client.ask('echo', long)) === long, 'a text of 1 MB comes back as it was');
  const big = randomBytes(1_000_000);
  assert.ok(Buffer.from(await client.ask('echo', big)).equals(big), '1 MB of bytes come back as they were');
}

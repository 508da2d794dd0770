// Socket.IO nodes, each in a separate process.

import { fileURLToPath } from 'node:url';

import { Child } from './process.mjs';
import { soon } from './wait.mjs';

const MAIN = fileURLToPath(new URL('./node-main.mjs', import.meta.url));
const FRONTED = fileURLToPath(new URL('./fronted-node.mjs', import.meta.url));
/** Maximum size of a message in bytes. */
const MAX_MESSAGE = 50_000_000;

class Node {
  constructor(options, main = MAIN) {
    this.options = options;
    this.name = options.name;
    this.child = new Child(process.execPath, [main, JSON.stringify(options)], { ipc: true });
    this.waiting = new Map();
    this.lastId = 0;
    this.listening = new Promise((resolve) => {
      this.child.process.on('message', (message) => {
        if (message.port) return resolve(message.port);
        this.waiting.get(message.id)?.(message.stats);
        this.waiting.delete(message.id);
      });
    });
  }

  async start() {
    const died = this.child.exited.then(() => {
      throw new Error(`node ${this.name} ended at start:\n${this.child.output}`);
    });
    this.port = await soon(`node ${this.name} listens`, Promise.race([this.listening, died]));
    this.address = `127.0.0.1:${this.port}`;
    return this;
  }

  /**
   * Statistics of the node: `made` (ids of its sessions), `known` (id → number of requests), `unknown` (ids of
   * requests that it did not know), number of `open` sessions, `handshakes`, `preflights`, sockets ever `connected`,
   * `disconnects` by reason.
   */
  async stats() {
    const id = ++this.lastId;
    const answer = new Promise((resolve) => this.waiting.set(id, resolve));
    this.child.process.send({ id });
    return soon(`node ${this.name} sends its statistics`, answer);
  }

  /** Makes a fronted node `block` or `unblock` its event loop. */
  command(command) {
    this.child.process.send({ command });
  }

  /** Kills the process without closing its sessions. */
  async kill() {
    this.killed = true;
    return this.child.stop('SIGKILL');
  }
}

/** Starts one node; `engine` are options of the Socket.IO server. */
export async function startNode({ name = 'a', generation = 'v4', redis, port, engine = {} } = {}) {
  const defaults = { maxHttpBufferSize: MAX_MESSAGE };
  return new Node({ name, generation, redis, port, engine: { ...defaults, ...engine } }).start();
}

/** Starts a node with an event loop that can be blocked; see fronted-node.mjs. */
export async function startFrontedNode({ generation = 'v4' } = {}) {
  return new Node({ name: 'fronted', generation }, FRONTED).start();
}

/** Starts several equal nodes with the names a, b, c … */
export async function startNodes(count, options = {}) {
  const names = Array.from({ length: count }, (_, i) => String.fromCharCode(97 + i));
  return Promise.all(names.map((name) => startNode({ ...options, name })));
}

/** Kills the nodes that still run. */
export async function stopNodes(nodes) {
  await Promise.all(nodes.filter((node) => !node.killed).map((node) => node.child.stop('SIGKILL')));
}

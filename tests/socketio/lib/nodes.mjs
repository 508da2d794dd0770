// Socket.IO nodes, each in a process of its own.

import { fileURLToPath } from 'node:url';

import { Child } from './process.mjs';
import { soon } from './wait.mjs';

const MAIN = fileURLToPath(new URL('./node-main.mjs', import.meta.url));
const FRONTED = fileURLToPath(new URL('./fronted-node.mjs', import.meta.url));
const AMPLE = 50_000_000;

class Node {
  constructor(options, main = MAIN) {
    this.options = options;
    this.name = options.name;
    this.child = new Child(process.execPath, [main, JSON.stringify(options)], { ipc: true });
    this.waiting = new Map();
    this.asked = 0;
    this.listening = new Promise((resolve) => {
      this.child.process.on('message', (message) => {
        if (message.port) return resolve(message.port);
        this.waiting.get(message.id)?.(message.account);
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
   * What the node saw: `made` (ids of its own sessions), `known` (id → requests), `unknown` (ids that it
   * did not know when they came), `open` sessions, `handshakes`, `preflights`, sockets ever
   * `connected`, `disconnects` by reason.
   */
  async account() {
    const id = ++this.asked;
    const answer = new Promise((resolve) => this.waiting.set(id, resolve));
    this.child.process.send({ id });
    return soon(`node ${this.name} gives its account`, answer);
  }

  /** Tells a fronted node to `block` or `unblock` its event loop. */
  order(order) {
    this.child.process.send({ order });
  }

  /** Gone at once, with no goodbye to anybody. */
  async kill() {
    this.killed = true;
    return this.child.stop('SIGKILL');
  }
}

/** Starts one node. `engine` is handed to the Socket.IO server as it is. */
export async function startNode({ name = 'a', generation = 'v4', redis, port, engine = {} } = {}) {
  const ample = { maxHttpBufferSize: AMPLE };
  return new Node({ name, generation, redis, port, engine: { ...ample, ...engine } }).start();
}

/** Starts one whose event loop can die behind a front that goes on saying 200; see fronted-node.mjs. */
export async function startFrontedNode({ generation = 'v4' } = {}) {
  return new Node({ name: 'fronted', generation }, FRONTED).start();
}

/** Starts several alike nodes, named a, b, c … */
export async function startNodes(count, options = {}) {
  const names = Array.from({ length: count }, (_, i) => String.fromCharCode(97 + i));
  return Promise.all(names.map((name) => startNode({ ...options, name })));
}

/** Ends nodes that still live. */
export async function stopNodes(nodes) {
  await Promise.all(nodes.filter((node) => !node.killed).map((node) => node.child.stop('SIGKILL')));
}

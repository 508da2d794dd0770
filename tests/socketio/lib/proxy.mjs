// A running Moorline, with a configuration file of its own.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { Child, scratch } from './process.mjs';
import { until } from './wait.mjs';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
export const BINARY = process.env.MOORLINE_BIN ?? join(ROOT, process.env.CARGO_TARGET_DIR ?? 'target', 'debug/moorline');
const CERTIFICATE = join(ROOT, 'certs/site.pem');
const KEY = join(ROOT, 'certs/site.key');

/**
 * A configuration file's text: `web` (http) and `secure` (https) on free ports of the loopback, and one pool
 * `chat` of these nodes. `backends`: addresses, or a TOML value; `cookieKey`: a file; `pool`: further lines of its table; `extra`: further
 * tables; `top`: further lines before the first table.
 */
export function configuration({ backends, accessLog, cookieKey, pool = '', top = '', extra = '' }) {
  const quoted = (backend) => (backend.startsWith('{') ? backend : JSON.stringify(backend));
  const list = Array.isArray(backends) ? `[${backends.map(quoted).join(', ')}]` : backends;
  return `access_log = { file = ${JSON.stringify(accessLog)} }
admin = { metrics = "127.0.0.1:0", socket = ${JSON.stringify(join(dirname(accessLog), 'admin.sock'))} }
${cookieKey ? `cookie_key = { file = ${JSON.stringify(cookieKey)} }` : ''}
${top}
[listeners.web]
bind = "127.0.0.1:0"
protocol = "http"

[listeners.secure]
bind = "127.0.0.1:0"
protocol = "https"
certificates = [{ cert = ${JSON.stringify(CERTIFICATE)}, key = ${JSON.stringify(KEY)} }]

[[routes]]
pool = "chat"

[pools.chat]
backends = ${list}
${pool}
${extra}`;
}

class Proxy {
  constructor(settings) {
    this.folder = scratch();
    this.file = join(this.folder, 'moorline.toml');
    this.log = join(this.folder, 'access.jsonl');
    this.settings = settings;
    this.write({});
    this.child = new Child(BINARY, ['run', this.file], { env: { RUST_LOG: 'info,moorline::control=debug', ...settings.env } });
  }

  /** Writes the file anew: these settings over the ones it was started with. */
  write(settings) {
    const all = { accessLog: this.log, ...this.settings, ...settings };
    this.writeText(all.text ?? configuration(all));
  }

  /** Edits the file and waits until the proxy has read it. */
  edit(settings) {
    return this.reloaded(() => this.write(settings));
  }

  /** Sends SIGHUP and waits until the proxy has obeyed. */
  hangUp() {
    return this.reloaded(() => this.child.signal('SIGHUP'));
  }

  /** Does something that asks for a reload, and waits for its outcome in the proxy's log. */
  async reloaded(cause) {
    const outcomes = () => this.child.output.match(/reloaded|reload refused/g)?.length ?? 0;
    const before = outcomes();
    await cause();
    await until(() => `a reload:\n${this.child.output}`, () => outcomes() > before);
  }

  /** Replaces the file in one step, as editors do. */
  writeText(text) {
    const draft = `${this.file}.draft`;
    writeFileSync(draft, text);
    renameSync(draft, this.file);
  }

  async start() {
    await until(
      () => `the proxy is ready:\n${this.child.output}`,
      () => {
        if (this.child.end) throw new Error(`the proxy ended at start:\n${this.child.output}`);
        return / INFO ready$/m.test(this.child.output);
      },
    );
    this.ports = new Map();
    for (const [, port, name] of this.child.output.matchAll(/ INFO listening on \S+:(\d+) \((\w+)\)$/gm)) {
      this.ports.set(name, Number(port));
    }
    this.admin = this.child.output.match(/ INFO metrics on (\S+)$/m)?.[1];
    return this;
  }

  /** What a client needs to reach this proxy, over TLS or not. */
  door({ tls = false } = {}) {
    return frontDoor([this], { tls });
  }

  /** Lines of the access log so far that `wanted` picks. */
  lines(wanted = () => true) {
    if (!existsSync(this.log)) return [];
    const whole = readFileSync(this.log, 'utf8').split('\n').slice(0, -1);
    return whole.map((line) => JSON.parse(line)).filter(wanted);
  }

  /** Value of a metric, summed over its labels; `labels` picks samples by a piece of their label text. */
  async metric(name, labels = '') {
    const text = await (await fetch(this.admin)).text();
    return text
      .split('\n')
      .filter((line) => line.startsWith(name) && /[ {]/.test(line[name.length] ?? '') && line.includes(labels))
      .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /** No stream ended by a fault of a backend or of the proxy, `except` for those that a test caused. */
  assertUntroubled(except = () => false) {
    const troubled = this.lines(({ termination }) => /^(backend|proxy)_(?!closed$)|^panicked$/.test(termination));
    assert.deepEqual(troubled.filter((line) => !except(line)), []);
  }

  /** Ends it as an operator would, with nothing left to wait for, and expects a clean end. */
  async stop() {
    if (this.child.end) return;
    const { code, signal } = await this.child.stop('SIGTERM');
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, this.child.output);
    assert.doesNotMatch(this.child.output, /panicked/);
  }
}

/** Starts a proxy; see `configuration` for the settings, or `text` for a whole file. */
export async function startProxy(settings) {
  return new Proxy(settings).start();
}

/** One or several proxies as one address to clients: connections take them in turn. */
export function frontDoor(proxies, { tls = false } = {}) {
  const ports = proxies.map((proxy) => proxy.ports.get(tls ? 'secure' : 'web'));
  return { ports, ca: tls ? readFileSync(CERTIFICATE) : undefined };
}

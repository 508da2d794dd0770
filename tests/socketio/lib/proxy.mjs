// A running proxy with its configuration file.

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
const ROUTES = '[[routes]]\npool = "chat"';

/**
 * Text of a configuration file with the listeners `web` (http) and `secure` (https) on free loopback ports, and one
 * pool `chat`. `backends`: addresses, or a TOML value; `cookieKey`: path of a file; `pool`: further lines of the pool's
 * table; `routes`: the routes; `extra`: further tables; `top`: further lines before the first table.
 */
export function configuration({ backends, accessLog, cookieKey, routes = ROUTES, pool = '', top = '', extra = '' }) {
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

${routes}

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

  /** Writes the file with the initial settings, overridden by these. */
  write(settings) {
    const all = { accessLog: this.log, ...this.settings, ...settings };
    this.writeText(all.text ?? configuration(all));
  }

  /** Changes the file and waits until the proxy has reloaded or rejected it. */
  edit(settings) {
    return this.reloaded(() => this.write(settings));
  }

  /** Sends SIGHUP and waits for the reload. */
  sendHangup() {
    return this.reloaded(() => this.child.signal('SIGHUP'));
  }

  /** Calls `cause`, which starts a reload, and waits for the result in the log. */
  async reloaded(cause) {
    const outcomes = () => this.child.output.match(/reloaded|reload rejected/g)?.length ?? 0;
    const before = outcomes();
    await cause();
    await until(() => `a reload:\n${this.child.output}`, () => outcomes() > before);
  }

  /** Replaces the file atomically, like editors do. */
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

  /** Ports and certificate authority for clients of this proxy. */
  endpoint({ tls = false } = {}) {
    return endpointOf([this], { tls });
  }

  /** Lines of the access log so far for which `wanted` returns true. */
  lines(wanted = () => true) {
    if (!existsSync(this.log)) return [];
    const whole = readFileSync(this.log, 'utf8').split('\n').slice(0, -1);
    return whole.map((line) => JSON.parse(line)).filter(wanted);
  }

  /** Sum of a metric over all label sets that contain the text `labels`. */
  async metric(name, labels = '') {
    const text = await (await fetch(this.admin)).text();
    return text
      .split('\n')
      .filter((line) => line.startsWith(name) && /[ {]/.test(line[name.length] ?? '') && line.includes(labels))
      .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /** Asserts that no stream ended by a fault of a backend or of the proxy, `except` for expected ones. */
  assertNoFaults(except = () => false) {
    const faulty = this.lines(({ termination }) => /^(backend|proxy)_(?!closed$)|^panicked$/.test(termination));
    assert.deepEqual(faulty.filter((line) => !except(line)), []);
  }

  /** Ends the proxy by SIGTERM, after all clients have disconnected, and asserts exit code 0. */
  async stop() {
    if (this.child.end) return;
    const { code, signal } = await this.child.stop('SIGTERM');
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, this.child.output);
    assert.doesNotMatch(this.child.output, /panicked/);
  }
}

/** Starts a proxy with settings for `configuration`, or with `text` as the whole file. */
export async function startProxy(settings) {
  return new Proxy(settings).start();
}

/** Ports and certificate authority for clients of one or several proxies, which connections use in turn. */
export function endpointOf(proxies, { tls = false } = {}) {
  const ports = proxies.map((proxy) => proxy.ports.get(tls ? 'secure' : 'web'));
  return { ports, ca: tls ? readFileSync(CERTIFICATE) : undefined };
}

// The configurations of README.md and of the reference in front of plain Socket.IO servers. Only ports, addresses and
// files are replaced by those of this machine.

import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import http from 'node:http';
import https from 'node:https';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Server } from 'socket.io';
import { io } from 'socket.io-client';

import { Child, scratch } from './lib/process.mjs';
import { BINARY } from './lib/proxy.mjs';
import { soon, until } from './lib/wait.mjs';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** The TOML blocks of the README and of the reference, each with its page and the heading above it. */
function examples() {
  const folder = 'docs/reference';
  const pages = readdirSync(join(ROOT, folder)).filter((name) => name.endsWith('.md') && !name.startsWith('configuration'));
  const found = [];
  for (const page of ['README.md', ...pages.sort().map((name) => `${folder}/${name}`)]) {
    const text = readFileSync(join(ROOT, page), 'utf8');
    let heading = '';
    for (const [, title, marks, block] of text.matchAll(/^#+ (.+)$|^```toml(\S*)\n([\s\S]*?)^```$/gm)) {
      if (title) heading = title;
      // Scenarios of the load harness are not configurations of the proxy.
      else if (!marks.includes('load')) found.push({ page, heading, block });
    }
  }
  assert.ok(found.length > 8, `${found.length} examples`);
  return found;
}

/** A minimal Socket.IO server; all other requests get 404. */
async function plainServer(t) {
  const server = createServer((request, response) => response.writeHead(404).end());
  const sockets = new Server(server);
  sockets.on('connection', (socket) => socket.on('echo', (text, answer) => answer(text)));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => sockets.close());
  return server.address().port;
}

/** Serves a list of backends over HTTP. */
async function listServer(t, ports) {
  const list = JSON.stringify(ports.map((port) => `127.0.0.1:${port}`));
  const server = createServer((request, response) => response.end(list));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return server.address().port;
}

/** Writes the files that the examples name to a folder. */
function filesIn(folder, ports) {
  const certs = join(folder, 'certs');
  mkdirSync(certs);
  for (const [name, from] of [
    ['certs/site.pem', 'signed.pem'],
    ['certs/site.key', 'signed.key'],
    ['certs/site.ocsp', 'signed.ocsp'],
    ['clients-ca.pem', 'ca.pem'],
    ['clients.crl', 'revoked.crl'],
  ]) {
    cpSync(join(ROOT, 'certs', from), join(folder, name));
  }
  writeFileSync(join(folder, 'cookie.key'), `${'0123456789abcdef'.repeat(4)}\n`, { mode: 0o600 });
  writeFileSync(join(folder, 'admin.token'), `${'0123456789abcdef'.repeat(2)}\n`, { mode: 0o600 });
  writeFileSync(join(folder, 'ticket.keys'), `${'fedcba9876543210'.repeat(4)}\n`, { mode: 0o600 });
  writeFileSync(join(folder, 'backends.txt'), ports.map((port) => `127.0.0.1:${port}\n`).join(''));
}

/** Adapts an example to this machine, and adds a listener or a pool if it has none. */
function adapted(block, { folder, ports, list }) {
  let turn = 0;
  const backend = () => `127.0.0.1:${ports[turn++ % ports.length]}`;
  let text = block
    .replace(/^(bind|admin) = (.*?)( +#.*)?$/gm, (_, key, value) => `${key} = ${value.replace(/"[^"]+:\d+"/g, '"127.0.0.1:0"')}`)
    .replaceAll('/var/log/', `${folder}/log/`)
    .replaceAll('/var/lib/moorline/acme', `${folder}/acme`)
    .replaceAll('/run/moorline/ticket.keys', 'ticket.keys')
    .replaceAll('https://acme-v02.api.letsencrypt.org', 'https://127.0.0.1:1')
    .replaceAll('http://127.0.0.1:8500', `http://127.0.0.1:${list}`)
    .replaceAll('chat.internal:3000', `localhost:${ports[0]}`);
  // Each pool begins with the first server, because a pool must not list an address twice.
  text = text.split('\n').map((line) => {
    turn = 0;
    return line.replace(/10\.0\.0\.\d+:\d+/g, backend);
  }).join('\n');
  if (!/^\[listeners/m.test(text)) text += '\n[listeners.web]\nbind = "127.0.0.1:0"\n';
  if (!/^\[pools/m.test(text)) text += `\n[pools.app]\nbackends = ["127.0.0.1:${ports[0]}"]\n`;
  return text;
}

/** Name → table of a listener, as lines. */
function listeners(text) {
  const tables = new Map();
  for (const [, name, lines] of text.matchAll(/^\[listeners\.(\w+)\]\s*(?:#.*)?\n((?:(?!^\[).*\n?)*)/gm)) {
    tables.set(name, lines);
  }
  return tables;
}

/** Connects clients to a port with this host name, and asserts that an echo is answered over each transport. */
async function assertServed({ port, host, secure, bytes, name }) {
  const Base = secure ? https.Agent : http.Agent;
  class Agent extends Base {
    addRequest(request, options) {
      super.addRequest(request, { ...options, host: '127.0.0.1', port, servername: 'localhost' });
    }
  }
  const certs = (file) => readFileSync(join(ROOT, 'certs', file));
  const tls = { rejectUnauthorized: false, cert: certs('client.pem'), key: certs('client.key') };
  // A layer 4 listener has no affinity, so only a WebSocket stays on one node.
  const each = bytes ? [['websocket']] : [['polling'], ['websocket'], ['polling', 'websocket']];
  for (const transports of each) {
    const agent = new Agent(secure ? tls : {});
    const socket = io(`${secure ? 'https' : 'http'}://${host}:${port}`, {
      transports, agent, forceNew: true, ...(secure ? tls : {}),
    });
    let trouble;
    socket.on('connect_error', (error) => (trouble = error));
    await until(() => `${name}: connected by ${transports}: ${trouble} ${trouble?.description}`, () => socket.connected);
    assert.equal(await soon(`${name}: an answer`, socket.emitWithAck('echo', 'hello')), 'hello');
    socket.close();
    agent.destroy();
  }
}

for (const [index, { page, heading, block }] of examples().entries()) {
  test(`${page}, ${heading} (example ${index + 1}): is valid and serves a client`, async (t) => {
    const folder = scratch();
    const ports = [await plainServer(t), await plainServer(t)];
    filesIn(folder, ports);
    const text = adapted(block, { folder, ports, list: await listServer(t, ports) });
    const file = join(folder, 'moorline.toml');
    writeFileSync(file, text);
    const env = { XDG_RUNTIME_DIR: folder, RUST_LOG: 'info' };

    const check = new Child(BINARY, ['check', file], { env });
    assert.deepEqual(await check.exited, { code: 0, signal: null }, `${check.output}\n${text}`);

    const proxy = new Child(BINARY, ['run', file], { env });
    await until(
      () => `ready:\n${proxy.output}`,
      () => {
        if (proxy.end) throw new Error(`the proxy ended at start:\n${proxy.output}`);
        return / INFO ready$/m.test(proxy.output);
      },
    );
    const host = text.match(/^host = "([\w.]+)"/m)?.[1] ?? 'localhost';
    let served = 0;
    for (const [name, lines] of listeners(text)) {
      const redirects = /^redirect/m.test(lines);
      const acme = text.includes(`[listeners.${name}.certificates.acme]`);
      if (redirects || acme) continue;
      const port = Number(proxy.output.match(new RegExp(`listening on \\S+:(\\d+) \\(${name}\\)$`, 'm'))[1]);
      const secure = /^protocol = "(https|tls)"/m.test(lines);
      const bytes = /^protocol = "(tcp|tls)"/m.test(lines);
      await assertServed({ port, host, secure, bytes, name });
      served++;
    }
    assert.ok(served > 0 || text.includes('certificates.acme'), 'a client was served');
    const { code, signal } = await proxy.stop('SIGTERM');
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, proxy.output);
    assert.doesNotMatch(proxy.output, /panicked|ERROR/, proxy.output);
    // A name can also have an IPv6 address, on which the servers do not listen.
    if (!text.includes('dns = ')) assert.doesNotMatch(proxy.output, /backend is down/, proxy.output);
  });
}

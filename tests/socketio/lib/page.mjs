// A page of another site that holds a Socket.IO client of either generation, in a real browser.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const require = createRequire(import.meta.url);
const CLIENTS = {
  v4: join(dirname(require.resolve('socket.io-client/package.json')), 'dist/socket.io.js'),
  v2: join(dirname(require.resolve('socket.io-client-v2/package.json')), 'dist/socket.io.js'),
};

/** Serves one page a generation, `/v4` and `/v2`, until test `t` ends: resolves with its origin. */
export async function servePages(t) {
  const server = createServer((request, response) => {
    const generation = request.url.slice(1, 3);
    if (!CLIENTS[generation]) return response.writeHead(404).end();
    const script = request.url.endsWith('.js');
    response.setHeader('Content-Type', script ? 'text/javascript' : 'text/html');
    response.end(script ? readFileSync(CLIENTS[generation]) : `<!doctype html><body><script src="/${generation}.js"></script>`);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

/**
 * Opens a page with a profile of its own, has its client talk to `address`, and books in the ledger what it
 * met. Resolves with `{ node, sid, transport, offered }`; `offered` are the proxy's `Set-Cookie` lines.
 */
export async function visit(browser, { origin, generation, address, settings, ledger }) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  try {
    const page = await context.newPage();
    const answers = [];
    const left = new Set();
    page.on('request', (request) => isGoodbye(request) && left.add(sidOf(request)));
    page.on('response', (response) => {
      if (response.url().startsWith(address)) answers.push({ response, late: left.has(sidOf(response)) });
    });
    await page.goto(`${origin}/${generation}`);
    ledger.clients++;
    const told = await page.evaluate(talk, { address, settings });
    const offered = [];
    for (const answer of answers) offered.push(...(await book(answer, ledger)));
    ledger.messages += told.messages;
    ledger.disconnects.push(...told.disconnects);
    ledger.errors.push(...told.errors);
    if (settings.transports.length > 1 && told.transport === 'websocket') ledger.upgrades++;
    return { ...told, offered };
  } finally {
    await context.close();
  }
}

/** Notes a response; resolves with the lines that offer the proxy's cookie. */
async function book({ response, late }, ledger) {
  ledger.requests++;
  if (response.status() >= 400) await complain(response, late, ledger);
  const headers = await response.headersArray();
  return headers
    .filter(({ name, value }) => name.toLowerCase() === 'set-cookie' && value.startsWith('moorline-chat='))
    .map(({ value }) => value);
}

/**
 * The v2 client leaves with a poll on its way: the poll and the POST that closes the session are on two
 * connections, which nothing keeps in order. A poll that comes second finds the session closed, by the
 * client's own wish; the client ignores that answer. Only a code 1 that a node has signed counts as such.
 */
async function complain(response, late, ledger) {
  const sid = sidOf(response);
  const body = await response.text();
  const unknown = body.includes('Session ID unknown');
  const poll = response.request().method() === 'GET';
  if (unknown && late && poll && response.headers()['x-node']) ledger.overtaken++;
  else if (unknown) ledger.unknown.push({ sid, upgrade: false });
  else ledger.errors.push({ sid, status: response.status(), body });
}

/** Whether a request closes its session: packet `1` alone, in the framing of v4, of v2, or in a JSONP form. */
function isGoodbye(request) {
  if (request.method() !== 'POST') return false;
  const body = request.postData() ?? '';
  return ['1', '1:1'].includes(new URLSearchParams(body).get('d') ?? body);
}

/** Session id of a request or response. */
function sidOf(exchange) {
  return new URL(exchange.url()).searchParams.get('sid');
}

/** Runs in the page: one client's whole life. Nothing from outside this function is there. */
async function talk({ address, settings }) {
  const told = { messages: 0, disconnects: [], errors: [] };
  const soon = (what, promise) =>
    Promise.race([promise, new Promise((_, no) => setTimeout(no, 60000, new Error(`not within a minute: ${what}`)))]);
  const same = (a, b) => {
    if (JSON.stringify(a) !== JSON.stringify(b)) throw new Error(`${JSON.stringify(a)} is not ${JSON.stringify(b)}`.slice(0, 300));
  };
  const bytes = (length) => Uint8Array.from({ length }, (_, i) => (i * 7) % 256);
  const list = (buffer) => Array.from(new Uint8Array(buffer));
  const socket = io(address, { forceNew: true, ...settings });
  let leaving = false;
  socket.on('connect_error', (error) => told.errors.push({ sid: told.sid, error: String(error.message ?? error) }));
  socket.on('disconnect', (reason) => leaving || told.disconnects.push({ node: told.node, sid: told.sid, reason }));
  socket.on('question', (question, answer) => answer({ question, from: 'a page' }));
  Object.assign(told, await soon('a welcome', new Promise((yes) => socket.on('welcome', yes))));

  const { engine } = socket.io;
  const upgraded = () => engine.transport.name === settings.transports.at(-1);
  await soon('its transport', new Promise((yes) => (upgraded() ? yes() : engine.once('upgrade', yes))));
  told.transport = engine.transport.name;
  const ask = async (...args) => {
    told.messages++;
    return soon(`an answer to ${args[0]}`, new Promise((yes) => socket.emit(...args, yes)));
  };

  same(await ask('echo', 'quote " slash \\ line\nseparator \u2028 ünïcødé 🚢'), 'quote " slash \\ line\nseparator \u2028 ünïcødé 🚢');
  same(await ask('ask me', 'why'), { question: 'why', from: 'a page' });
  const items = [];
  socket.on('item', (i) => items.push(i));
  const all = new Promise((yes) => socket.on('item', () => items.length === 100 && yes()));
  await ask('feed', 100);
  await soon('100 items', all);
  same(items, Array.from({ length: 100 }, (_, i) => i));
  told.messages += 100;
  for (const length of [5000, 1_000_000]) same(list(await ask('bytes', length)), list(bytes(length).buffer));
  // By JSONP no bytes go up: the old client posts the two packets of such an event as two forms, and today's
  // browsers drop the first form for the second, with or without a proxy.
  if (!settings.forceJSONP || settings.transports.length > 1) {
    for (const length of [5000, 1_000_000]) same(list(await ask('echo', bytes(length).buffer)), list(bytes(length).buffer));
  }
  const long = 'moor '.repeat(200_000);
  if ((await ask('echo', long)) !== long) throw new Error('a text of 1 MB came back changed');
  leaving = true;
  socket.disconnect();
  return told;
}

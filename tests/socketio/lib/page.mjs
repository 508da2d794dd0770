// A page of another site with a Socket.IO client of either generation, in a real browser.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const require = createRequire(import.meta.url);
const CLIENTS = {
  v4: join(dirname(require.resolve('socket.io-client/package.json')), 'dist/socket.io.js'),
  v2: join(dirname(require.resolve('socket.io-client-v2/package.json')), 'dist/socket.io.js'),
};

/** Serves one page for each generation, `/v4` and `/v2`, until test `t` ends; resolves with the origin. */
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
 * Opens a page with a separate browser profile, lets its client exchange messages with `address`, and records events in
 * the ledger. Resolves with `{ node, sid, transport, offered }`; `offered` are the proxy's `Set-Cookie` lines.
 */
export async function visit(browser, { origin, generation, address, settings, ledger }) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  try {
    const page = await context.newPage();
    const answers = [];
    const closed = new Set();
    page.on('request', (request) => isClose(request) && closed.add(sidOf(request)));
    page.on('response', (response) => {
      if (response.url().startsWith(address)) answers.push({ response, late: closed.has(sidOf(response)) });
    });
    await page.goto(`${origin}/${generation}`);
    ledger.clients++;
    // A session whose close was not sent before its page is gone keeps its node until it expires.
    const polling = settings.transports.at(-1) === 'polling';
    const left = polling && page.waitForResponse((response) => isClose(response.request()), { timeout: 60_000 });
    const result = await page.evaluate(talk, { address, settings });
    await left;
    const offered = [];
    for (const answer of answers) offered.push(...(await record(answer, ledger)));
    ledger.messages += result.messages;
    ledger.disconnects.push(...result.disconnects);
    ledger.errors.push(...result.errors);
    if (settings.transports.length > 1 && result.transport === 'websocket') ledger.upgrades++;
    return { ...result, offered };
  } finally {
    await context.close();
  }
}

/** Records a response; resolves with the `Set-Cookie` values for the proxy's cookie. */
async function record({ response, late }, ledger) {
  ledger.requests++;
  if (response.status() >= 400) await recordError(response, late, ledger);
  const headers = await response.headersArray();
  return headers
    .filter(({ name, value }) => name.toLowerCase() === 'set-cookie' && value.startsWith('moorline-chat='))
    .map(({ value }) => value);
}

/**
 * When a v2 client disconnects, it has an open poll. The poll and the POST that closes the session are on two
 * connections and can arrive in any order. If the poll arrives second, its node answers code 1, which the client
 * ignores. Only a code 1 with `x-node` is counted like this.
 */
async function recordError(response, late, ledger) {
  const sid = sidOf(response);
  const body = await response.text();
  const unknown = body.includes('Session ID unknown');
  const poll = response.request().method() === 'GET';
  if (unknown && late && poll && response.headers()['x-node']) ledger.pollsAfterClose++;
  else if (unknown) ledger.unknown.push({ sid, upgrade: false });
  else ledger.errors.push({ sid, status: response.status(), body });
}

/** Whether a request closes its session: its body is the packet `1`, in the framing of v4, v2 or JSONP. */
function isClose(request) {
  if (request.method() !== 'POST') return false;
  const body = request.postData() ?? '';
  return ['1', '1:1'].includes(new URLSearchParams(body).get('d') ?? body);
}

/** Session id of a request or response. */
function sidOf(exchange) {
  return new URL(exchange.url()).searchParams.get('sid');
}

/** Runs in the page, without access to anything outside this function: connects, exchanges messages, disconnects. */
async function talk({ address, settings }) {
  const result = { messages: 0, disconnects: [], errors: [] };
  const soon = (what, promise) =>
    Promise.race([promise, new Promise((_, no) => setTimeout(no, 60000, new Error(`not within a minute: ${what}`)))]);
  const same = (a, b) => {
    if (JSON.stringify(a) !== JSON.stringify(b)) throw new Error(`${JSON.stringify(a)} is not ${JSON.stringify(b)}`.slice(0, 300));
  };
  const bytes = (length) => Uint8Array.from({ length }, (_, i) => (i * 7) % 256);
  const list = (buffer) => Array.from(new Uint8Array(buffer));
  const socket = io(address, { forceNew: true, ...settings });
  let leaving = false;
  socket.on('connect_error', (error) => result.errors.push({ sid: result.sid, error: String(error.message ?? error) }));
  socket.on('disconnect', (reason) => leaving || result.disconnects.push({ node: result.node, sid: result.sid, reason }));
  socket.on('question', (question, answer) => answer({ question, from: 'a page' }));
  Object.assign(result, await soon('a welcome', new Promise((yes) => socket.on('welcome', yes))));

  const { engine } = socket.io;
  const upgraded = () => engine.transport.name === settings.transports.at(-1);
  await soon('its transport', new Promise((yes) => (upgraded() ? yes() : engine.once('upgrade', yes))));
  result.transport = engine.transport.name;
  const ask = async (...args) => {
    result.messages++;
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
  result.messages += 100;
  for (const length of [5000, 1_000_000]) same(list(await ask('bytes', length)), list(bytes(length).buffer));
  // JSONP cannot send binary data: the old client posts the two packets of the event as two forms, and current
  // browsers drop the first form, with or without a proxy.
  if (!settings.forceJSONP || settings.transports.length > 1) {
    for (const length of [5000, 1_000_000]) same(list(await ask('echo', bytes(length).buffer)), list(bytes(length).buffer));
  }
  const long = 'moor '.repeat(200_000);
  if ((await ask('echo', long)) !== long) throw new Error('a text of 1 MB came back changed');
  leaving = true;
  socket.disconnect();
  return result;
}

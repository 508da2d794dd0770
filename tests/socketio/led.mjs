// A crowd of real Socket.IO clients that another program leads, line by line, as it leads `moorline-load led`:
//
//     node led.mjs https://localhost:8443 ca.pem polling 10
//
// They poll, upgrade (`polling-upgrade`) or use WebSocket only (`websocket`), and keep no cookies. Orders are `look`, `gone NODE` (losing
// that node is expected from now on) and `back NODE`; each is answered by one line of JSON: how things stand.
// The run ends with its input.

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

import { closeAll, open, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { Ledger } from './lib/ledger.mjs';

/** From one question of a client to its next. */
const EVERY = 2000;
/** "Service restart": the server asks its client to come back. */
const SERVICE_RESTART = 1012;

const [url, authority, kind, count] = process.argv.slice(2);
const transports = { polling: POLLING, 'polling-upgrade': UPGRADING, websocket: WEBSOCKET }[kind];
const door = { ports: [Number(new URL(url).port)], ca: readFileSync(authority) };
const ledger = new Ledger();
const clients = Array.from({ length: Number(count) }, () => open(door, { transports, ledger }));

/** Nodes whose loss is expected. */
const gone = new Set();
const totals = { answered: 0, moved: 0, node_gone: 0, disconnects: 0, errors: 0, misrouted: 0 };
const errors = {};
/** How much of each of the ledger's lists has been counted. */
const counted = { unknown: 0, failedUpgrades: 0, disconnects: 0, errors: 0 };

const talks = clients.map((client, i) => {
  const ask = () => question(client);
  let timer;
  // Not all at the same moment.
  const start = setTimeout(() => (timer = setInterval(ask, EVERY)), (EVERY * i) / clients.length);
  return () => (clearTimeout(start), clearInterval(timer));
});

for await (const line of createInterface({ input: process.stdin })) {
  // What has happened so far was expected or not by what was ordered until now.
  countUp();
  const [order, node] = line.trim().split(' ');
  if (order === 'gone') gone.add(node);
  else if (order === 'back') gone.delete(node);
  else if (order !== 'look') throw new Error(`${line} is no order`);
  console.log(JSON.stringify(look()));
}
for (const stop of talks) stop();
await closeAll(clients);
process.exit();

function question(client) {
  if (!client.socket.connected) return;
  const text = randomBytes(48).toString('hex');
  client.socket.emit('echo', text, (answer) => {
    if (answer === text) totals.answered++;
    else book('wrong_echo');
  });
}

function book(kind) {
  totals.errors++;
  errors[kind] = (errors[kind] ?? 0) + 1;
}

/** Counts what the ledger has got since the last time. */
function countUp() {
  const owners = new Map(clients.flatMap(({ welcomes }) => welcomes.map(({ sid, node }) => [sid, node])));
  const unexpected = ({ node, sid }) => !gone.has(node ?? owners.get(sid));
  for (const entry of fresh('disconnects')) {
    if (entry.code === SERVICE_RESTART) totals.moved++;
    else if (!unexpected(entry)) totals.node_gone++;
    else {
      totals.disconnects++;
      book(isBroken(entry) ? 'protocol' : 'disconnect');
    }
  }
  for (const _ of fresh('unknown').filter(unexpected)) book('code1');
  for (const _ of fresh('failedUpgrades').filter(unexpected)) book('upgrade_refused');
  for (const entry of fresh('errors').filter(unexpected)) {
    console.error(entry);
    book('status');
  }
}

function fresh(list) {
  const entries = ledger[list].slice(counted[list]);
  counted[list] = ledger[list].length;
  return entries;
}

/** Whether a session ended because what came was no frame or no packet. */
function isBroken({ reason, fault }) {
  return reason === 'parse error' || Boolean(fault?.startsWith('WS_ERR_'));
}

function look() {
  const nodes = {};
  const there = clients.filter(({ settled }) => settled);
  for (const { node } of there) nodes[node] = (nodes[node] ?? 0) + 1;
  const connects = clients.reduce((sum, { welcomes }) => sum + welcomes.length, 0);
  return { connected: there.length, totals: { ...totals, connects }, errors, nodes };
}

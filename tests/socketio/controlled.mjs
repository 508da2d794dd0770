// npm Socket.IO clients under the control of another program, with the commands of `moorline-load controlled`:
//
//     node controlled.mjs https://localhost:8443 ca.pem polling 10
//
// The clients poll, upgrade (`polling-upgrade`) or use WebSocket only (`websocket`), and store no cookies. The commands
// are `status`, `down NODE` (the loss of this node is expected from now on) and `up NODE`. The reply to each is one line
// of JSON with the status of the clients. The program ends at the end of standard input.

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

import { closeAll, open, POLLING, UPGRADING, WEBSOCKET } from './lib/clients.mjs';
import { Ledger } from './lib/ledger.mjs';

/** Interval of the messages of a client. */
const EVERY = 2000;
/** "Service restart": the server asks the client to reconnect. */
const SERVICE_RESTART = 1012;

const [url, authority, kind, count] = process.argv.slice(2);
const transports = { polling: POLLING, 'polling-upgrade': UPGRADING, websocket: WEBSOCKET }[kind];
const target = { ports: [Number(new URL(url).port)], ca: readFileSync(authority) };
const ledger = new Ledger();
const clients = Array.from({ length: Number(count) }, () => open(target, { transports, ledger }));

/** Nodes whose loss is expected. */
const down = new Set();
const totals = { answered: 0, moved: 0, node_gone: 0, disconnects: 0, errors: 0, misrouted: 0 };
const errors = {};
/** Number of entries of each list of the ledger that are already counted. */
const counted = { unknown: 0, failedUpgrades: 0, disconnects: 0, errors: 0 };

const timers = clients.map((client, i) => {
  const send = () => sendEcho(client);
  let timer;
  // Spread over the interval.
  const start = setTimeout(() => (timer = setInterval(send, EVERY)), (EVERY * i) / clients.length);
  return () => (clearTimeout(start), clearInterval(timer));
});

for await (const line of createInterface({ input: process.stdin })) {
  // Whether earlier losses were expected depends only on earlier commands.
  countEntries();
  const [command, node] = line.trim().split(' ');
  if (command === 'down') down.add(node);
  else if (command === 'up') down.delete(node);
  else if (command !== 'status') throw new Error(`unknown command ${line}: use status, down NODE or up NODE`);
  console.log(JSON.stringify(status()));
}
for (const stop of timers) stop();
await closeAll(clients);
process.exit();

function sendEcho(client) {
  if (!client.socket.connected) return;
  const text = randomBytes(48).toString('hex');
  client.socket.emit('echo', text, (answer) => {
    if (answer === text) totals.answered++;
    else countError('wrong_echo');
  });
}

function countError(kind) {
  totals.errors++;
  errors[kind] = (errors[kind] ?? 0) + 1;
}

/** Counts the new entries of the ledger. */
function countEntries() {
  const owners = new Map(clients.flatMap(({ welcomes }) => welcomes.map(({ sid, node }) => [sid, node])));
  const unexpected = ({ node, sid }) => !down.has(node ?? owners.get(sid));
  for (const entry of newEntries('disconnects')) {
    if (entry.code === SERVICE_RESTART) totals.moved++;
    else if (!unexpected(entry)) totals.node_gone++;
    else {
      totals.disconnects++;
      countError(isBroken(entry) ? 'protocol' : 'disconnect');
    }
  }
  for (const _ of newEntries('unknown').filter(unexpected)) countError('code1');
  for (const _ of newEntries('failedUpgrades').filter(unexpected)) countError('upgrade_refused');
  for (const entry of newEntries('errors').filter(unexpected)) {
    console.error(entry);
    countError('status');
  }
}

function newEntries(list) {
  const entries = ledger[list].slice(counted[list]);
  counted[list] = ledger[list].length;
  return entries;
}

/** Whether a session ended because of an invalid frame or packet. */
function isBroken({ reason, fault }) {
  return reason === 'parse error' || Boolean(fault?.startsWith('WS_ERR_'));
}

function status() {
  const nodes = {};
  const connected = clients.filter(({ isReady }) => isReady);
  for (const { node } of connected) nodes[node] = (nodes[node] ?? 0) + 1;
  const connects = clients.reduce((sum, { welcomes }) => sum + welcomes.length, 0);
  return { connected: connected.length, totals: { ...totals, connects }, errors, nodes };
}

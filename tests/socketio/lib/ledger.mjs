// The account that every test closes with: what clients met, and what of it the proxy must answer for.

import assert from 'node:assert/strict';
import { after } from 'node:test';
import { basename } from 'node:path';

/**
 * What the clients of one test met. Everything but `clients` and `upgrades` is a fault unless a test says
 * which of it was its own doing (a node that it killed).
 */
export class Ledger {
  clients = 0;
  upgrades = 0;
  requests = 0;
  messages = 0;
  /** Replies with the Engine.IO error 1, "Session ID unknown": `{ sid, upgrade }`. */
  unknown = [];
  /** Polls that their client's own goodbye overtook: the node answered code 1, and the client had left. */
  overtaken = 0;
  /** Upgrades that were tried and did not end in a tunnel or a used WebSocket. */
  failedUpgrades = [];
  /** Sessions that ended while the client wanted them: `{ client, node, sid, reason, code, fault }`. */
  disconnects = [];
  /** Any other reply that is no success, and connection errors. */
  errors = [];
  /** Which of the above a test has claimed as its own doing. */
  expected = () => false;

  constructor() {
    ledgers.push(this);
  }

  /** Nothing went wrong; `expected(entry)` tells what of it the test did itself. */
  assertClean(expected = this.expected) {
    this.expected = expected;
    assert.deepEqual(this.faults('unknown'), [], 'code-1 replies');
    assert.deepEqual(this.faults('failedUpgrades'), [], 'failed upgrades');
    assert.deepEqual(this.faults('disconnects'), [], 'disconnects');
    assert.deepEqual(this.faults('errors'), [], 'failed requests');
  }

  /** What of a list no test has claimed. */
  faults(list) {
    return this[list].filter((entry) => !this.expected(entry));
  }
}

const ledgers = [];

/**
 * Every session's requests reached the node that made it, and that node only: no node was asked for another
 * node's session. With `search`, it may have been, as an owner search does. Sessions in `gone` belonged to
 * nodes that are no more. (A request that reaches the right node after its session has ended is not the
 * node's concern here; what the client made of it stands in the ledger.)
 */
export async function assertMoored(nodes, { search = false, gone = new Set() } = {}) {
  const accounts = await Promise.all(
    nodes.filter((node) => !node.killed).map(async (node) => ({ node: node.name, ...(await node.account()) })),
  );
  const owner = new Map(accounts.flatMap(({ node, made }) => made.map((sid) => [sid, node])));
  const strays = [];
  for (const { node, known, unknown } of accounts) {
    for (const sid of Object.keys(known)) if (owner.get(sid) !== node) strays.push({ node, sid, owner: owner.get(sid) });
    for (const sid of unknown) {
      const fine = owner.get(sid) === node || (search && owner.has(sid)) || gone.has(sid);
      if (!fine) strays.push({ node, sid, owner: owner.get(sid) ?? 'nobody' });
    }
  }
  assert.deepEqual(strays, [], 'requests that reached the wrong node');
  return accounts;
}

/** Prints one line at the end of a test file: what all its ledgers add up to. */
export function printFigures(url) {
  after(() => {
    const sum = (figure) => ledgers.reduce((total, ledger) => total + figure(ledger), 0);
    const faults = (list) => {
      const caused = sum((ledger) => ledger[list].length - ledger.faults(list).length);
      return `${sum((ledger) => ledger.faults(list).length)}${caused ? ` (and ${caused} that the test caused)` : ''}`;
    };
    const figures = [
      `clients ${sum((ledger) => ledger.clients)}`,
      `requests ${sum((ledger) => ledger.requests)}`,
      `messages ${sum((ledger) => ledger.messages)}`,
      `upgrades ${sum((ledger) => ledger.upgrades)}`,
      `failed upgrades ${faults('failedUpgrades')}`,
      `code-1 replies ${faults('unknown')}`,
      `disconnects ${faults('disconnects')}`,
      `polls overtaken by a goodbye ${sum((ledger) => ledger.overtaken)}`,
    ];
    console.log(`figures ${basename(new URL(url).pathname, '.test.mjs')}: ${figures.join(', ')}`);
  });
}

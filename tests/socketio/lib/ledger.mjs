// Records what clients experienced in a test: errors, disconnects, and totals.

import assert from 'node:assert/strict';
import { after } from 'node:test';
import { basename } from 'node:path';

/**
 * Events of the clients of one test. All entries of the lists are failures, except those that the test expects, for
 * example because it killed a node.
 */
export class Ledger {
  clients = 0;
  upgrades = 0;
  requests = 0;
  messages = 0;
  /** Replies with the Engine.IO error 1, "Session ID unknown": `{ sid, upgrade }`. */
  unknown = [];
  /** Polls that reached the node after their client had closed the session: the node answered code 1. */
  pollsAfterClose = 0;
  /** Failed upgrades. */
  failedUpgrades = [];
  /** Sessions that ended without a disconnect by the client: `{ client, node, sid, reason, code, fault }`. */
  disconnects = [];
  /** Other error replies, and connection errors. */
  errors = [];
  /** Returns whether the test expects an entry. */
  expected = () => false;

  constructor() {
    ledgers.push(this);
  }

  /** Asserts that there are no unexpected entries; `expected(entry)` decides which are expected. */
  assertClean(expected = this.expected) {
    this.expected = expected;
    assert.deepEqual(this.faults('unknown'), [], 'code-1 replies');
    assert.deepEqual(this.faults('failedUpgrades'), [], 'failed upgrades');
    assert.deepEqual(this.faults('disconnects'), [], 'disconnects');
    assert.deepEqual(this.faults('errors'), [], 'failed requests');
  }

  /** Unexpected entries of a list. */
  faults(list) {
    return this[list].filter((entry) => !this.expected(entry));
  }
}

const ledgers = [];

/**
 * Asserts that requests of each session reached only the node of the session. With `search`, requests may also have
 * reached other nodes, as in an owner search. Sessions in `gone` belonged to killed nodes. A request that reaches the
 * right node after the end of its session is allowed here; the ledger of the client records it.
 */
export async function assertAffinity(nodes, { search = false, gone = new Set() } = {}) {
  const accounts = await Promise.all(
    nodes.filter((node) => !node.killed).map(async (node) => ({ node: node.name, ...(await node.stats()) })),
  );
  const owner = new Map(accounts.flatMap(({ node, made }) => made.map((sid) => [sid, node])));
  const strays = [];
  for (const { node, known, unknown } of accounts) {
    for (const sid of Object.keys(known)) if (owner.get(sid) !== node) strays.push({ node, sid, owner: owner.get(sid) });
    for (const sid of unknown) {
      const fine = owner.get(sid) === node || (search && owner.has(sid)) || gone.has(sid);
      if (!fine) strays.push({ node, sid, owner: owner.get(sid) ?? 'unknown' });
    }
  }
  assert.deepEqual(strays, [], 'requests that reached the wrong node');
  return accounts;
}

/** Prints one line at the end of a test file: the totals of all its ledgers. */
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
      `polls after a close ${sum((ledger) => ledger.pollsAfterClose)}`,
    ];
    console.log(`figures ${basename(new URL(url).pathname, '.test.mjs')}: ${figures.join(', ')}`);
  });
}

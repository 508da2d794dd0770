// Runs the load harness by its command line.

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { Child, scratch } from './process.mjs';
import { BINARY } from './proxy.mjs';
import { soon } from './wait.mjs';

const HARNESS = process.env.MOORLINE_LOAD_BIN ?? join(dirname(BINARY), 'moorline-load');

/** A run in progress. */
export class Load {
  /** `args` as on the command line, URL included; `--json` and `--quiet` are added. */
  constructor(args, { command = 'run' } = {}) {
    this.file = join(scratch(), 'figures.json');
    this.child = new Child(HARNESS, [command, ...args.map(String), '--json', this.file, '--quiet']);
  }

  /** Waits for the end; resolves with `{ code, output }` and the figures of the run, if any. */
  async end() {
    const { code } = await soon(() => `the run ends:\n${this.child.output}`, this.child.exited);
    const text = existsSync(this.file) ? readFileSync(this.file, 'utf8') : '';
    return { ...JSON.parse(text || '{}'), code, output: this.child.output };
  }
}

/** Runs the harness until it ends. */
export function load(args, options) {
  return new Load(args, options).end();
}

/** Number of errors of a run by kind. */
export function errors(run) {
  return Object.fromEntries(run.errors.map(({ kind, count }) => [kind, count]));
}

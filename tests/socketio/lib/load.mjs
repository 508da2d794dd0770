// The load harness, run from its command line.

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { Child, scratch } from './process.mjs';
import { BINARY } from './proxy.mjs';
import { soon } from './wait.mjs';

const HARNESS = process.env.MOORLINE_LOAD_BIN ?? join(dirname(BINARY), 'moorline-load');

/** A run that has begun. */
export class Load {
  /** `args` as on the command line, URL included; `--json` and `--quiet` are added. */
  constructor(args, { command = 'run' } = {}) {
    this.file = join(scratch(), 'figures.json');
    this.child = new Child(HARNESS, [command, ...args.map(String), '--json', this.file, '--quiet']);
  }

  /** Waits for the end: `{ code, output }` and, where the run has any, its figures. */
  async end() {
    const { code } = await soon(() => `the run ends:\n${this.child.output}`, this.child.exited);
    const text = existsSync(this.file) ? readFileSync(this.file, 'utf8') : '';
    return { ...JSON.parse(text || '{}'), code, output: this.child.output };
  }
}

/** Runs the harness to its end. */
export function load(args, options) {
  return new Load(args, options).end();
}

/** Errors by kind, of a run's figures. */
export function errors(run) {
  return Object.fromEntries(run.errors.map(({ kind, count }) => [kind, count]));
}

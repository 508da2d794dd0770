// Child processes: their output is collected, and they are killed at the end.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { soon } from './wait.mjs';

const running = new Set();
const folders = new Set();

process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** Creates a temporary folder, which is removed when this process ends. */
export function scratch() {
  const folder = mkdtempSync(join(tmpdir(), 'moorline-suite-'));
  folders.add(folder);
  return folder;
}

/** A child process; `output` is its standard output and standard error so far. */
export class Child {
  constructor(command, args, { ipc = false, env = {} } = {}) {
    this.output = '';
    this.process = spawn(command, args, {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe', ...(ipc ? ['ipc'] : [])],
    });
    running.add(this.process);
    const collect = (chunk) => (this.output += chunk);
    this.process.stdout.setEncoding('utf8').on('data', collect);
    this.process.stderr.setEncoding('utf8').on('data', collect);
    /** Resolves with `{ code, signal }`; `code` is null if a signal ended the process. */
    this.exited = new Promise((resolve) => {
      this.process.once('error', (error) => {
        running.delete(this.process);
        this.output += `${command}: ${error.message}\n`;
        resolve({ code: 127, signal: null });
      });
      this.process.once('close', (code, signal) => {
        running.delete(this.process);
        resolve({ code, signal });
      });
    });
    this.exited.then((end) => (this.end = end));
  }

  get pid() {
    return this.process.pid;
  }

  signal(name) {
    this.process.kill(name);
  }

  /** Sends a signal and waits for the end: `{ code, signal }`. */
  async stop(name = 'SIGTERM', within) {
    if (!this.end) this.signal(name);
    return soon(() => `${this.process.spawnfile} ends on ${name}:\n${this.output}`, this.exited, within);
  }
}

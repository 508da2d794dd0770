// Follows a page of the docs: writes the files that it shows, runs its commands, and compares their output.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';

import { until } from '../../socketio/lib/wait.mjs';
import { namedFiles } from './configuration.mjs';
import { ROOT, commands } from './markdown.mjs';
import { matchesOutput } from './output.mjs';
import { Sandbox } from './sandbox.mjs';

const NODES = ['10.0.0.11:3000', '10.0.0.12:3000', '10.0.0.13:3000'];

/** Follows the marked blocks of a page in order, in a sandbox with a Socket.IO server on each of `NODES`. */
export async function follow(t, page) {
  const sandbox = new Sandbox();
  t.after(() => sandbox.close());
  await sandbox.put('node.cjs', NODE);
  const listening = await sandbox.start(`exec node node.cjs ${NODES.join(' ')}`);
  await until(async () => `the nodes listen:\n${await listening()}`, async () => (await listening()).includes('listening'));
  for (const { path, content } of filesOf(page)) await sandbox.put(path, content);
  if (page.blocks.some(({ marks }) => marks.has('proxy'))) await startProxy(sandbox);
  for (const block of page.blocks) await followBlock(sandbox, block);
  return sandbox;
}

/** The certificates, keys and lists that the configurations of a page name, as { path, content }. */
export function filesOf(page) {
  const written = page.blocks.filter(({ language, marks }) => language === 'toml' && marks.has('file'));
  return written.flatMap(({ text, marks }) => namedFiles(text).map(({ path, content }) => ({
    path: isAbsolute(path) ? path : join(dirname(marks.get('file')), path), content,
  })));
}

/** Starts a proxy with chat.toml, for pages that need a running proxy. */
async function startProxy(sandbox) {
  const text = readFileSync(join(ROOT, 'tests/docs/chat.toml'), 'utf8');
  for (const { path, content } of namedFiles(text)) await sandbox.put(join('/etc/moorline', path), content);
  await sandbox.put('/etc/moorline/moorline.toml', text);
  await sandbox.put('new.toml', text.replace(/"site\./g, '"/etc/moorline/site.'));
  const printed = await sandbox.start('moorline run /etc/moorline/moorline.toml');
  await until(async () => `the proxy is ready:\n${await printed()}`, async () => / ready$/m.test(await printed()));
  await sandbox.run('export MOORLINE_SOCKET=/run/moorline.sock');
}

/** Runs one block if it is marked. */
export async function followBlock(sandbox, block) {
  const { marks } = block;
  const at = `${block.file}:${block.line}`;
  if (marks.has('file')) return sandbox.put(marks.get('file'), block.text);
  if (!marks.has('run')) return undefined;
  for (const { command, output, line } of commands(block)) {
    if (marks.has('background')) await inBackground(sandbox, { at: `${block.file}:${line}`, command, output, wait: marks.get('background') });
    else if (marks.has('eventually')) await eventually(sandbox, { at: `${block.file}:${line}`, command, output });
    else await inForeground(sandbox, { at: `${block.file}:${line}`, command, output: block.language === 'console' && output, status: Number(marks.get('status') ?? 0) });
  }
  return at;
}

async function inForeground(sandbox, { at, command, output, status }) {
  const result = await sandbox.run(command);
  assert.equal(result.status, status, `${at}: ${command}\n${result.output}`);
  if (output) assert.ok(matchesOutput(output, result.output), `${at}: ${command}\nprints\n${result.output}\nand the page says\n${output.join('\n')}`);
}

/** Repeats the command until its output matches the page. */
async function eventually(sandbox, { at, command, output }) {
  let last;
  await until(() => `${at}: ${command}\nprints\n${last}\nand the page says\n${output.join('\n')}`, async () => {
    last = (await sandbox.run(command)).output;
    return matchesOutput(output, last);
  }, 30_000);
}

/** Starts a command, and waits until its output matches the page or has the word of the mark (`ready` by default). */
async function inBackground(sandbox, { at, command, output, wait }) {
  const printed = await sandbox.start(command.trim().replace(/&$/, ''));
  const word = wait === true ? 'ready' : wait;
  const done = output.length ? (text) => matchesOutput(output, text) : (text) => text.includes(word);
  let last = '';
  await until(() => `${at}: ${command}\nprints\n${last}\nand the page says\n${output.join('\n') || word}`, async () => done((last = await printed())), 30_000);
}

/** A Socket.IO server on each address: an `echo` event, and 200 for plain requests. */
const NODE = `
const { createServer } = require('node:http');
const { Server } = require('socket.io');
let open = process.argv.length - 2;
for (const address of process.argv.slice(2)) {
  const [host, port] = address.split(':');
  const server = createServer((request, response) => response.end(address + '\\n'));
  new Server(server).on('connection', (socket) => socket.on('echo', (text, answer) => answer(text)));
  server.listen(Number(port), host, () => --open || console.log('listening'));
}
`;

// The newcomer's walk: from a clone to an own app with TLS, reload, drain and upgrade, by the commands and files of
// docs/getting-started.md. A `text` block after a `sh` block is its output.
//
// Two commands are replaced by scripts that check their arguments: `cargo` installs the program that tests/run has
// built, and `npm install` links the packages that tests/setup has installed.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { until } from '../socketio/lib/wait.mjs';
import { ROOT, parse } from './lib/markdown.mjs';
import { matchesOutput } from './lib/output.mjs';
import { PROGRAMS } from './lib/programs.mjs';
import { Sandbox } from './lib/sandbox.mjs';

const PAGE = 'docs/getting-started.md';
const PACKAGES = join(ROOT, 'tests/socketio/node_modules');
/** Commands that only read: repeated until they print the output of the page. */
const READS = /^(cat|tail|head|grep|ls|curl|moorline (backends|status|sessions)) ?/;

/** A script in place of `cargo`. */
function cargoScript() {
  const cargo = execFileSync('sh', ['-c', 'command -v cargo'], { encoding: 'utf8' }).trim();
  const homes = `RUSTUP_HOME=${process.env.RUSTUP_HOME ?? join(homedir(), '.rustup')} CARGO_HOME=${process.env.CARGO_HOME ?? join(homedir(), '.cargo')}`;
  return `#!/bin/bash
set -eu
${homes} ${cargo} metadata --no-deps --offline --format-version 1 >/dev/null
case "$*" in
  'install --path .' | 'install --locked --path .' | 'install --path . --locked') folder=$HOME/.cargo/bin ;;
  'build --release') folder=target/release ;;
  *) echo "the test does not support cargo $*" >&2 && exit 2 ;;
esac
mkdir -p "$folder"
install -m 755 ${PROGRAMS.get('moorline')} "$folder/moorline"
`;
}

const NPM = `#!/bin/bash
set -eu
[ "$1" = install ]
shift
for package; do [ -d "${PACKAGES}/$package" ] || { echo "tests/socketio has no package $package" >&2; exit 1; }; done
ln -sfn ${PACKAGES} node_modules
`;

/** Splits a block into commands; continued lines and here-documents stay together. */
function steps(text) {
  const found = [];
  let open;
  for (const line of text.trimEnd().split('\n')) {
    if (open) {
      found[found.length - 1] += `\n${line}`;
      if (open === '\\' ? !line.endsWith('\\') : line === open) open = undefined;
      continue;
    }
    if (!line.trim() || line.startsWith('#')) continue;
    found.push(line);
    open = line.endsWith('\\') ? '\\' : line.match(/<<-?'?(\w+)'?/)?.[1];
  }
  return found;
}

/** Removes what differs between two runs: nodes of clients, the order in which clients move, the number of requests. */
function normal(text) {
  const plain = text
    .replace(/^.*line \d+: +\d+ (Terminated|Killed).*\n?/gm, '')
    .replace(/\bnode \d+/g, 'node 0')
    .replace(/^("chosen_by":"sid")\n(?:\1(?:\n|$))+/gm, '$1\n')
    .replace(/^(ada|bob|eve|kim|leo|mia)\b/gm, 'name');
  const lines = plain.trimEnd().split('\n');
  return lines.every((line) => line.startsWith('name')) ? lines.sort().join('\n') : plain;
}

/** Waits until the process that a background command starts is ready. */
async function started(sandbox, command) {
  const says = (what, test) => until(() => `${what}, after: ${command}\n${sandbox.output.slice(-2000)}`, async () => (await sandbox.run(test)).status === 0);
  const node = command.match(/^node \S+ (\d+)/);
  if (node) await says('the node listens', `(: < /dev/tcp/127.0.0.1/${node[1]}) 2>/dev/null`);
  if (/^moorline (run|proxy|demo)/.test(command)) await says('moorline serves', 'moorline status >/dev/null 2>&1');
  const log = command.match(/^node stay\S* .*> *(\S+)/);
  if (log) await says('all clients are connected', `[ "$(grep -c node ${log[1]})" = 6 ]`);
}

test('a newcomer follows the docs from a clone to an own app with TLS, reload, drain and upgrade', { skip: !existsSync(join(ROOT, PAGE)) }, async (t) => {
  const page = parse(PAGE);
  const sandbox = new Sandbox();
  t.after(() => sandbox.close());
  await sandbox.run(`rm ${sandbox.folder}/bin/moorline; export PATH="$HOME/.cargo/bin:$PATH"; set -m`);
  for (const [name, script] of [['cargo', cargoScript()], ['npm', NPM]]) {
    await sandbox.put(`${sandbox.folder}/bin/${name}`, script);
    await sandbox.run(`chmod 755 ${sandbox.folder}/bin/${name}`);
  }
  const clone = await sandbox.run(`git -c safe.directory='*' clone --quiet ${ROOT} moorline && cd moorline`);
  assert.equal(clone.status, 0, clone.output);
  // The folder for the app's files, beside the source.
  const folder = `${sandbox.home}/app`;
  await sandbox.run(`mkdir ${folder}`);

  const done = [];
  let last;
  for (const block of page.blocks) {
    const at = `${PAGE}:${block.line}`;
    const { language, marks, text } = block;
    if (marks.has('file')) {
      await sandbox.put(`${folder}/${marks.get('file')}`, text);
      await sandbox.run(`cd ${folder}`);
    } else if (language === 'sh' && !marks.has('skip')) {
      for (const command of steps(text)) {
        let { status, output } = await sandbox.run(command);
        // For example, `grep` fails until the line is in the log.
        if (status !== 0 && READS.test(command)) {
          await until(() => `${at}: ${command}\nsucceeds; it printed\n${output}`, async () => {
            ({ status, output } = await sandbox.run(command));
            return status === 0;
          });
        }
        assert.equal(status, 0, `${at}: ${command}\n${output}`);
        if (/&( *#.*)?$/.test(command)) await started(sandbox, command);
        last = { command, output };
        done.push(command);
      }
    } else if (language === 'text') {
      const lines = normal(text).split('\n');
      const repeat = marks.has('in') ? `cat ${marks.get('in')}` : READS.test(last.command) && last.command;
      const same = (output) => (marks.has('in') ? lines.filter(Boolean).every((line) => output.includes(line)) : matchesOutput(lines, normal(output)));
      let output = last.output;
      await until(() => `${at}: ${last.command}\nprints\n${output}\nand the page says\n${text}`, async () => {
        if (repeat) ({ output } = await sandbox.run(repeat));
        if (same(output)) return true;
        if (!repeat) throw new Error(`${at}: ${last.command}\nprints\n${output}\nand the page says\n${text}`);
        return false;
      }, 30_000);
    }
  }

  const all = done.join('\n');
  for (const part of [/cargo (install|build)/, /moorline check/, /moorline run/, /moorline drain/, /moorline undrain/, /moorline upgrade/]) assert.match(all, part);
  await until('every process has ended', async () => (await sandbox.run('pgrep -x moorline')).status !== 0);
});

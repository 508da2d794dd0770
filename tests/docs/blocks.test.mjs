// Every code block of the Markdown files, checked by its language; see README.md for the marks.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, test } from 'node:test';

import { scratch } from '../socketio/lib/process.mjs';
import { certificateFile } from './lib/certificates.mjs';
import { complete, namedFiles } from './lib/configuration.mjs';
import { ROOT, commands, inlineCode, markdownFiles, parse } from './lib/markdown.mjs';
import { help, usageFaults } from './lib/programs.mjs';
import { Sandbox } from './lib/sandbox.mjs';

const YAML = createRequire(join(ROOT, 'tests/socketio/package.json'))('yaml');
/** Shown as they are: drawings, and excerpts in languages for which there is nothing to check. */
const UNCHECKED = new Set(['text', 'diff', 'http', 'promql', 'dockerfile', 'rust', 'caddyfile', 'html', 'sql', 'mermaid']);
const files = markdownFiles().map((file) => parse(file));

let sandbox;
const inSandbox = () => (sandbox ??= new Sandbox());
after(() => sandbox?.close());

/** Puts the files that a configuration names in place, relative ones beside it. */
async function putNamedFiles(text) {
  for (const { path, content } of namedFiles(text)) await inSandbox().put(path, content);
}

async function checkConfiguration(block) {
  const text = block.marks.has('fragment') ? complete(block.text) : block.text;
  await putNamedFiles(text);
  await inSandbox().put('block.toml', text);
  const variables = [...text.matchAll(/\benv\s*=\s*"(\w+)"|\$\{(\w+)\}/g)].map(([, a, b]) => `${a ?? b}=0123456789abcdef0123456789abcdef`);
  const { status, output } = await inSandbox().run(`${variables.join(' ')} moorline check block.toml`);
  const invalid = block.marks.has('invalid');
  assert.equal(status, invalid ? 1 : 0, `${output}\n${text}`);
}

/** A scenario file of moorline-load: its keys are flags of `run`, and of the subcommand of their table. */
function checkScenario({ text }) {
  let path = ['run'];
  for (const line of text.split('\n')) {
    const table = line.match(/^\[(\w+)\]/);
    const key = line.match(/^([\w-]+)\s*=/);
    if (table) path = [table[1]];
    if (key && key[1] !== 'url') assert.ok(help('moorline-load', path).flags.has(`--${key[1]}`), `moorline-load ${path} has a flag --${key[1]}`);
  }
}

function checkShell(block) {
  for (const { line, command } of commands(block)) {
    const parsed = spawnSync('bash', ['-n'], { input: command, encoding: 'utf8' });
    assert.equal(parsed.status, 0, `line ${line}: ${parsed.stderr}`);
    assert.deepEqual(usageFaults(command), [], `line ${line}: ${command}`);
  }
}

function checkJson({ text }) {
  try {
    JSON.parse(text);
  } catch {
    for (const line of text.trim().split('\n')) JSON.parse(line);
  }
}

/** By the JSON Schema of Compose, or by Kubernetes' own, with the tools of tests/requirements.txt. */
function checkYamlSchema(text) {
  const bin = join(ROOT, process.env.CARGO_TARGET_DIR ?? 'target', 'tools/python/bin');
  const file = join(scratch(), 'block.yaml');
  writeFileSync(file, text);
  const check = /^services:/m.test(text)
    ? ['check-jsonschema', '--builtin-schema', 'vendor.compose-spec']
    : ['kubernetes-validate', '--strict', '--quiet'];
  const { status, stdout, stderr, error } = spawnSync(join(bin, check[0]), [...check.slice(1), file], { encoding: 'utf8' });
  assert.equal(status, 0, `${stdout}${stderr}${error ?? ''}`);
}

function checkYaml({ text }) {
  if (/^services:|^apiVersion:/m.test(text)) checkYamlSchema(text);
  const documents = YAML.parseAllDocuments(text);
  assert.ok(documents.length > 0 && documents[0].contents, 'a YAML document');
  for (const document of documents) {
    // Tags of an application, such as CloudFormation's `!Ref`, are warnings.
    const faults = [...document.errors, ...document.warnings.filter(({ code }) => code !== 'TAG_RESOLVE_FAILED')];
    assert.deepEqual(faults.map(String), []);
  }
}

/** A unit, or a drop-in for moorline.service, by systemd's own parser. */
function checkUnit(block, t) {
  if (spawnSync('systemd-analyze', ['--version']).status !== 0) return t.skip('systemd-analyze is not installed');
  const folder = scratch();
  const name = block.marks.get('unit') ?? 'moorline.service';
  const whole = /^ExecStart=|^ListenStream=/m.test(block.text) && /^\[Unit\]/m.test(block.text);
  // systemd verifies that the programs of a unit exist.
  const local = (text) => text.replace(/^(Exec\w+=)\S+/gm, '$1/bin/true').replace(/^User=.*|^Group=.*/gm, '');
  if (whole) writeFileSync(join(folder, name), local(block.text));
  else {
    writeFileSync(join(folder, name), local(readFileSync(join(ROOT, 'deploy', name), 'utf8')));
    mkdirSync(join(folder, `${name}.d`));
    writeFileSync(join(folder, `${name}.d`, 'docs.conf'), local(block.text));
  }
  const { stderr, stdout } = spawnSync('systemd-analyze', ['verify', '--man=no', join(folder, name)], { encoding: 'utf8', env: { ...process.env, SYSTEMD_UNIT_PATH: `${folder}:` } });
  const faults = `${stdout}${stderr}`.split('\n').filter((line) => line.includes(folder));
  return assert.deepEqual(faults, []);
}

/** An nginx configuration by `nginx -t`; what is not a whole one is put into `http { … }`. */
async function checkNginx({ text }) {
  const whole = /^\s*(events|http|stream)\s*\{/m.test(text);
  for (const [, key, path] of text.matchAll(/^\s*(ssl_certificate(?:_key)?|ssl_client_certificate)\s+(\S+);/gm)) {
    await inSandbox().put(path, certificateFile(key === 'ssl_certificate_key' ? 'key' : 'cert'));
  }
  const wrapped = whole ? text : `events {}\nhttp {\n${text}\n}\n`;
  await inSandbox().put('/etc/nginx/block.conf', /^\s*events/m.test(wrapped) ? wrapped : `events {}\n${wrapped}`);
  const { status, output } = await inSandbox().run('mkdir -p /var/log/nginx /var/lib/nginx && nginx -t -q -g "user root; pid /run/nginx.pid;" -c /etc/nginx/block.conf');
  assert.equal(status, 0, output);
}

async function checkHaproxy({ text }) {
  const pair = Buffer.concat([certificateFile('cert'), certificateFile('key')]);
  for (const [, path] of text.matchAll(/\b(?:crt|ca-file) (\S+)/g)) await inSandbox().put(path.endsWith('/') ? `${path}site.pem` : path, pair);
  await inSandbox().put('haproxy.cfg', text);
  const { status, output } = await inSandbox().run('haproxy -c -f haproxy.cfg');
  assert.equal(status, 0, output);
}

function checkScript({ text }) {
  const file = join(scratch(), /^import /m.test(text) ? 'block.mjs' : 'block.cjs');
  writeFileSync(file, text);
  execFileSync(process.execPath, ['--check', file]);
}

const CHECKS = {
  toml: (block) => (block.marks.has('load') ? checkScenario(block) : block.marks.has('other') ? undefined : checkConfiguration(block)),
  sh: checkShell,
  bash: checkShell,
  console: checkShell,
  json: checkJson,
  yaml: checkYaml,
  ini: checkUnit,
  nginx: checkNginx,
  haproxy: checkHaproxy,
  js: checkScript,
};

for (const file of files) {
  for (const block of file.blocks) {
    test(`${block.file}:${block.line} (${block.language || 'no language'}), ${block.heading}`, async (t) => {
      assert.ok(block.language, 'the block names its language; `text` if it has none');
      if (UNCHECKED.has(block.language)) return;
      assert.ok(CHECKS[block.language], `a check for ${block.language}`);
      await CHECKS[block.language](block, t);
    });
  }
}

for (const file of files) {
  const uses = inlineCode(file).filter(({ code }) => /^moorline(-load)? [a-z-]/.test(code));
  if (!uses.length) continue;
  test(`${file.file}: the commands within sentences exist`, () => {
    const faults = uses.flatMap(({ line, code }) => usageFaults(code).map((fault) => `${file.file}:${line}: ${fault}`));
    assert.deepEqual(faults, []);
  });
}

test('names of metrics in the docs are names of the program', () => {
  const source = ['metrics.rs', 'names.rs', 'names/metric.rs'].map((name) => readFileSync(join(ROOT, 'src/observe', name), 'utf8')).join('');
  const faults = [];
  for (const { file } of files.filter(({ file }) => /^(docs\/|README|deploy\/)/.test(file))) {
    for (const [index, line] of readFileSync(join(ROOT, file), 'utf8').split('\n').entries()) {
      for (const [, name] of line.matchAll(/\bmoorline_([a-z][a-z0-9_]*[a-z0-9])\b/g)) {
        const base = name.replace(/_(total|bucket|sum|count)$/, '');
        if (!source.includes(`"${base}"`) && !source.includes(`"${name}"`) && !source.includes(`moorline_${base}`)) faults.push(`${file}:${index + 1}: moorline_${name}`);
      }
    }
  }
  assert.deepEqual(faults, []);
});

test('terminations in the docs are terminations of the program', () => {
  const source = readFileSync(join(ROOT, 'src/observe/names.rs'), 'utf8');
  const words = new Set([...source.matchAll(/"([a-z_]+)"/g)].map(([, word]) => word));
  const phases = [...words].filter((word) => new RegExp(`Phase::\\w+ => "${word}"`).test(source));
  const faults = [];
  for (const { file } of files.filter(({ file }) => /^(docs\/|README|deploy\/)/.test(file))) {
    for (const [index, line] of readFileSync(join(ROOT, file), 'utf8').split('\n').entries()) {
      for (const [name, side, rest] of line.matchAll(/\b(client|backend|proxy)_([a-z_]*[a-z])\b(?!_|…|\*)/g)) {
        const [phase] = phases.filter((phase) => rest.startsWith(`${phase}_`)).sort((a, b) => b.length - a.length);
        const nginx = /^proxy_\w+_timeout$/.test(name);
        if (phase && !nginx && !words.has(rest.slice(phase.length + 1))) faults.push(`${file}:${index + 1}: ${side}_${rest} (${name})`);
      }
    }
  }
  assert.deepEqual(faults, []);
});

test('the files that the docs show as excerpts of the repository exist', () => {
  const faults = files.flatMap(({ file, prose }) => prose.flatMap((line, index) => [...line.matchAll(/`((?:src|tests|benches|deploy|certs|crates)\/[\w./-]+)`/g)]
    .filter(([, path]) => !existsSync(join(ROOT, path)))
    .map(([, path]) => `${file}:${index + 1}: ${path}`)));
  assert.deepEqual(faults, []);
});

test('faults of commands, configurations and output are found', async () => {
  const faults = {
    'moorline chek moorline.toml': ['moorline has no subcommand chek'],
    'sudo moorline backends chat': ['moorline backends has no subcommand chat'],
    'moorline drain chat --witin 5m --wait && echo --other': ['moorline drain has no flag --witin'],
    'A=1 moorline-load run URL --client=2 --clents 3 | head': ['moorline-load run has no flag --clents'],
    'x=$(moorline status --jsn) # moorline nothing': ['moorline status has no flag --jsn'],
    'cargo run --release -- dmo': ['moorline has no subcommand dmo'],
    "moorline backends weight chat blue-1 2; echo 'moorline x'": [],
  };
  for (const [command, expected] of Object.entries(faults)) assert.deepEqual(usageFaults(command), expected, command);
  const block = (text, ...marks) => ({ text, marks: new Map(marks.map((mark) => [mark, true])) });
  await checkConfiguration(block('[pools.chat]\nslow_start = "1s"\n', 'fragment'));
  await checkConfiguration(block('[listeners.secure.tls]\nmin_version = "1.3"\n', 'fragment'));
  await assert.rejects(checkConfiguration(block('[pools.chat]\nslow_strat = "1s"\n', 'fragment')), /slow_strat/);
  await assert.rejects(checkConfiguration(block('[pools.chat]\nslow_start = "1s"\n')), /backends/);
  await assert.rejects(checkNginx(block('server { listn 80; }')), /listn/);
  await assert.rejects(checkHaproxy(block('frontend web\n    bnd :80\n')), /bnd/);
  assert.throws(() => checkJson(block('{"a":1,}')));
  assert.throws(() => checkYaml(block('a: [1')));
  assert.throws(() => checkYaml(block('services:\n  chat:\n    imge: chat\n')), /imge/);
  assert.throws(() => checkYaml(block('apiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec: { port: [] }\n')), /port/);
  assert.throws(() => checkShell({ ...block('if true'), language: 'sh', line: 1 }), /syntax error/);
  assert.throws(() => checkScenario(block('clents = 3\n')), /clents/);
});

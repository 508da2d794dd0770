// Links and anchors within the repository's Markdown files.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { ROOT, linkTarget, markdownFiles, parse } from './lib/markdown.mjs';

const files = new Map(markdownFiles().map((file) => [file, parse(file)]));

/** The error of a link, or undefined. */
function fault(file, { line, target }) {
  const to = linkTarget(file, target);
  if (!to) return undefined;
  const path = join(ROOT, to.path);
  if (to.path.startsWith('..')) return `${file}:${line}: ${target} is outside of the repository`;
  if (!existsSync(path)) return `${file}:${line}: ${target} does not exist`;
  if (!to.anchor || statSync(path).isDirectory() || !to.path.endsWith('.md')) return undefined;
  const parsed = files.get(to.path) ?? parse(to.path);
  return parsed.anchors.has(to.anchor) ? undefined : `${file}:${line}: ${target}: no such heading`;
}

for (const [file, { links }] of files) {
  if (!links.length) continue;
  test(`${file}: the targets of its links exist`, () => {
    assert.deepEqual(links.map((link) => fault(file, link)).filter(Boolean), []);
  });
}

test('the book has every page of docs', { skip: !files.has('docs/SUMMARY.md') }, () => {
  const listed = new Set(files.get('docs/SUMMARY.md').links.map(({ target }) => linkTarget('docs/SUMMARY.md', target)?.path));
  const pages = [...files.keys()].filter((file) => file.startsWith('docs/') && file !== 'docs/SUMMARY.md');
  assert.deepEqual(pages.filter((page) => !listed.has(page)), []);
});

test('a broken link and a broken anchor are found', () => {
  const { links } = parse('docs/x.md', '# Title\n[a](missing.md) [b](#title) [c](#tittle) `[d](code.md)`\n```text\n[e](block.md)\n```\n');
  files.set('docs/x.md', parse('docs/x.md', '# Title\n'));
  const existing = links.filter(({ target }) => !target.startsWith('#')).map((link) => fault('docs/x.md', link));
  assert.deepEqual(existing, ['docs/x.md:2: missing.md does not exist']);
  assert.deepEqual([...parse('docs/x.md', '# A `b` c\n# A b c\n## ACME & TLS\n').anchors], ['a-b-c', 'a-b-c-1', 'acme--tls']);
  assert.ok(readFileSync(join(ROOT, 'README.md'), 'utf8').length > 0);
});

// Blocks with the mark `run`: the commands of a page, run in order in one sandbox, against the built programs.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { markdownFiles, parse } from './lib/markdown.mjs';
import { matchesOutput } from './lib/output.mjs';
import { follow } from './lib/page.mjs';

for (const file of markdownFiles()) {
  const page = parse(file);
  if (!page.blocks.some(({ marks }) => marks.has('run'))) continue;
  test(`${file}: its commands run, and print what the page says`, (t) => follow(t, page));
}

test('printed output is compared with real output', () => {
  const same = [
    [['ok'], 'ok\n'],
    [['took 1.5 ms'], 'took 20 ms\n'],
    [['a  b'], 'a b\n'],
    [['first', '…', 'last'], 'first\n1\n2\nlast\n'],
    [['2026-11-20T14:57:28.436Z  INFO ready'], '2027-01-01T00:00:00.000Z  INFO ready\n'],
    [['chat/blue-2 …'], 'chat/blue-2 drains\n'],
    [[], ''],
  ];
  for (const [printed, output] of same) assert.ok(matchesOutput(printed, output), `${printed} is ${output}`);
  const different = [
    [['ok'], 'no\n'],
    [['0 sessions'], '1 sessions\n'],
    [['first'], 'first\nsecond\n'],
    [['first', 'second'], 'first\n'],
    [[], 'something\n'],
  ];
  for (const [printed, output] of different) assert.ok(!matchesOutput(printed, output), `${printed} is not ${output}`);
});

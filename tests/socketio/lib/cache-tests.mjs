// The public suite of HTTP cache tests, https://cache-tests.fyi, through a proxy.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { Child, scratch } from './process.mjs';
import { until } from './wait.mjs';

const PACKAGE = dirname(createRequire(import.meta.url).resolve('http-cache-tests/package.json'));
// The suite's own client: that of Node asks for new responses in some requests by itself.
const fetch = createRequire(join(PACKAGE, 'package.json'))('node-fetch');
const load = (path) => import(pathToFileURL(join(PACKAGE, path)));

/** Starts the origin of the suite: `{ port, stop }`. */
export async function startOrigin() {
  const env = { npm_config_protocol: 'http', npm_config_port: '0', npm_config_pidfile: join(scratch(), 'pid') };
  const child = new Child(process.execPath, ['--no-warnings', join(PACKAGE, 'server/server.mjs')], { env });
  let port;
  await until(
    () => `the origin listens:\n${child.output}`,
    () => (port = child.output.match(/Listening on http:\/\/\S+:(\d+)\//)?.[1]),
  );
  return { port: Number(port), stop: () => child.stop() };
}

/** Runs all tests through a proxy at this address, and returns what `judge` makes of the results. */
export async function runCacheTests(base) {
  const [{ runTests, getResults }, { default: suites }] = await Promise.all([load('client/runner.mjs'), load('tests/index.mjs')]);
  await runTests(suites, fetch, false, base);
  return judge(suites, getResults());
}

/** What is published for a cache: 'nginx', 'varnish' and others. */
export async function published(cache) {
  const { default: suites } = await load('tests/index.mjs');
  return judge(suites, JSON.parse(readFileSync(join(PACKAGE, 'results', `${cache}.json`), 'utf8')));
}

/**
 * Sorts results: `passed` and `failed` are required tests, `optimal` and `missed` are those of an ideal cache. Tests
 * whose preconditions do not hold, such as that a response is stored, are in `inapplicable`.
 */
function judge(suites, results) {
  const tests = new Map(suites.flatMap((suite) => suite.tests).map((test) => [test.id, test]));
  const verdicts = { passed: [], failed: [], optimal: [], missed: [], inapplicable: [], checks: [] };
  const holds = (id) => results[id] === true && (tests.get(id)?.depends_on ?? []).every(holds);
  for (const [id, { kind = 'required', depends_on: needs = [] }] of tests) {
    const result = results[id];
    if (result === undefined) continue;
    const setup = Array.isArray(result) && result[0] === 'Setup';
    const row = result === true ? id : `${id}: ${result[1]}`;
    if (setup || !needs.every(holds)) verdicts.inapplicable.push(row);
    else if (kind === 'required') verdicts[result === true ? 'passed' : 'failed'].push(row);
    else if (kind === 'optimal') verdicts[result === true ? 'optimal' : 'missed'].push(row);
    else verdicts.checks.push(row);
  }
  assert.ok(verdicts.passed.length + verdicts.failed.length > 100, 'the suite has run');
  return verdicts;
}

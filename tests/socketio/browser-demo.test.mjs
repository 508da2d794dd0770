// The buttons and the switch of the demo page in a real browser, and their effect on nodes and sessions.
// SCREENSHOTS names a folder for pictures of the page; without it none are taken.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { launch, startDemo, Visitor } from './lib/demo.mjs';
import { until } from './lib/wait.mjs';

const run = promisify(execFile);

/** A demo with two visitors on different nodes. */
async function twoVisitors(t, flags) {
  const demo = await startDemo(t, flags);
  const browser = await launch(t);
  const ada = await Visitor.visit(browser, demo.chat);
  const finn = await Visitor.visit(browser, demo.chat);
  const [here, there] = [await ada.sessionNode(), await finn.sessionNode()];
  assert.notEqual(here, there);
  return { demo, browser, ada, finn, here, there };
}

/** Asserts that the visitor still has its first session. */
async function assertUndisturbed(visitor, node) {
  assert.deepEqual(await visitor.sessions(), [node]);
  assert.equal(await visitor.sessionNode(), node);
}

test('demo: Drain moves the clients of one node only, Undrain ends the drain', async (t) => {
  const { ada, finn, here, there } = await twoVisitors(t);
  await ada.press(`Drain ${here}`, `${here} takes no new sessions. Its 1 client will move`);
  assert.notEqual(await ada.movesFrom(here), here);
  await ada.sees(here, 'drained');
  await assertUndisturbed(finn, there);
  await ada.press(`Undrain ${here}`, `${here} takes new sessions again.`);
  await ada.sees(here, 'up');
});

test('demo: Kill ends a node, and its clients reconnect to another one', async (t) => {
  const { ada, finn, here, there } = await twoVisitors(t);
  await finn.press(`Kill ${here}`, `${here} was killed. Its 1 client lost the connection`);
  assert.notEqual(await ada.movesFrom(here), here);
  await finn.sees(here, 'killed');
  await assertUndisturbed(finn, there);
  const drain = finn.page.getByRole('button', { name: `Drain ${here}`, exact: true });
  assert.equal(await drain.getAttribute('aria-disabled'), 'true');
  await finn.press(`Replace ${here}`, `replaces ${here}.`);
  await finn.page.locator(`#node-${here}`).waitFor({ state: 'detached' });
  await finn.sees('delta', 'up');
});

test('demo: Replace starts a node and moves the clients of the old one', async (t) => {
  const { ada, finn, here, there } = await twoVisitors(t);
  await ada.press(`Replace ${here}`, `delta replaces ${here}.`);
  assert.notEqual(await ada.movesFrom(here), here);
  await finn.sees('delta', 'up');
  await ada.page.locator(`#crowds [data-node="${here}"]`).waitFor({ state: 'detached' });
  await ada.page.locator(`#node-${here}`).waitFor({ state: 'detached' });
  await assertUndisturbed(finn, there);
  assert.deepEqual(finn.complaints, []);
});

test('demo: Reload disconnects no client', async (t) => {
  const { ada, finn, here, there } = await twoVisitors(t);
  await ada.press('Reload the configuration', 'Sessions before: 2, after: 2. No client was disconnected.');
  await assertUndisturbed(ada, here);
  await assertUndisturbed(finn, there);
  await ada.say('Ada', 'still here');
  assert.equal(await finn.hear('still here'), here);
  for (const visitor of [ada, finn]) assert.deepEqual(visitor.complaints, []);
});

test('demo: Plain round robin fails with code 1 where Moorline does not', async (t) => {
  const { ada, finn, there } = await twoVisitors(t);
  const number = async (id) => Number(await ada.page.locator(`#${id}`).textContent());
  const plain = ada.page.getByRole('switch', { name: 'Plain round robin' });
  await plain.check();
  await until('a request has failed', async () => (await number('plain-failed')) >= 1);
  await until('the client opens new sessions', async () => (await number('plain-opened')) >= 3);
  await ada.page.getByRole('heading', { name: 'No affinity' }).waitFor();
  await ada.page.locator('#story', { hasText: 'does not know the session' }).waitFor();
  await ada.page.locator('#requests [data-fault="400, code 1"]').first().waitFor();
  if (process.env.SCREENSHOTS) {
    await ada.page.screenshot({ path: join(process.env.SCREENSHOTS, 'demo-plain.png'), fullPage: true });
  }
  assert.equal(await number('plain-connected'), 0);
  assert.equal(await number('moorline-failed'), 0);
  await assertUndisturbed(finn, there);

  await plain.uncheck();
  await ada.upgraded();
  await ada.page.locator('#state[data-state="connected"]').waitFor();
  await ada.sessionNode();
  assert.equal(await number('moorline-failed'), 0);
  assert.deepEqual([await number('moorline-opened'), await number('moorline-connected')], [2, 2]);
});

test('demo: the last available node can be neither drained nor killed', async (t) => {
  const { chat } = await startDemo(t, ['--nodes', '1']);
  const visitor = await Visitor.visit(await launch(t), chat);
  await visitor.sees('alfa', 'up');
  for (const action of ['Drain', 'Kill']) {
    const button = visitor.page.getByRole('button', { name: `${action} alfa`, exact: true });
    assert.equal(await button.getAttribute('aria-disabled'), 'true');
    const status = await visitor.page.evaluate(
      async ([path, token]) => (await fetch(path, { method: 'POST', headers: { 'x-demo-token': token } })).status,
      [`/demo/${action.toLowerCase()}?node=alfa`, await token(visitor)],
    );
    assert.equal(status, 409);
  }
  await visitor.press('Replace alfa', 'bravo replaces alfa.');
  assert.equal(await visitor.movesFrom('alfa'), 'bravo');
});

test('demo: only its own page can change nodes', async (t) => {
  const { chat } = await startDemo(t);
  const visitor = await Visitor.visit(await launch(t), chat);
  const secret = await token(visitor);
  const { host } = new URL(chat);
  const own = { 'x-demo-token': secret, origin: chat, host };
  for (const [why, headers] of [
    ['no token', { origin: chat }],
    ['a wrong token', { ...own, 'x-demo-token': `${secret}0` }],
    ['no origin', { 'x-demo-token': secret }],
    ['another origin', { ...own, origin: 'https://example.com' }],
    ['another site', { ...own, 'sec-fetch-site': 'cross-site' }],
    ['another host', { ...own, host: 'example.com', origin: 'https://example.com' }],
  ]) {
    const reply = await visitor.context.request.post(`${chat}/demo/kill?node=alfa`, { headers, ignoreHTTPSErrors: true });
    assert.equal(reply.status(), 403, why);
  }
  const reply = await visitor.context.request.post(`${chat}/demo/reload`, { headers: own, ignoreHTTPSErrors: true });
  assert.equal(reply.status(), 200, await reply.text());
  await visitor.sees('alfa', 'up');
});

test('demo: the drain command that the terminal prints works as printed', async (t) => {
  const { demo, ada, finn } = await twoVisitors(t);
  await until(() => `a drain command:\n${demo.child.output}`, () => / drain demo\/alfa /.test(demo.child.output));
  const command = demo.child.output.match(/^ +(\S.* drain demo\/alfa .*)$/m)[1];
  assert.equal(await ada.page.locator('#drain-command').textContent(), command);
  await run('sh', ['-c', command]);
  await ada.sees('alfa', 'drained');
  for (const visitor of [ada, finn]) {
    await until('no session is on alfa', async () => (await visitor.sessions()).at(-1) !== 'alfa');
  }
});

test('demo: the last line copies the command for own nodes', async (t) => {
  const { chat } = await startDemo(t);
  const visitor = await Visitor.visit(await launch(t), chat, { permissions: ['clipboard-read', 'clipboard-write'] });
  await visitor.sees('alfa', 'up');
  await visitor.page.getByRole('button', { name: 'Copy the command' }).click();
  await visitor.page.getByText('Copied.').waitFor();
  const copied = await visitor.page.evaluate(() => navigator.clipboard.readText());
  assert.match(copied, / proxy --backend 127\.0\.0\.1:3001 --backend 127\.0\.0\.1:3002$/);
  const last = await visitor.page.locator('body > :last-child').innerText();
  assert.ok(last.includes(copied), last);
});

function token(visitor) {
  return visitor.page.locator('meta[name="demo-token"]').getAttribute('content');
}

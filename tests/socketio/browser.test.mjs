// `moorline demo` in a real browser, over https.
// SCREENSHOTS names a folder for pictures of the page; without it none are taken.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';

import { launch, startDemo, Visitor } from './lib/demo.mjs';
import { Child } from './lib/process.mjs';
import { BINARY } from './lib/proxy.mjs';
import { soon, until } from './lib/wait.mjs';

/** Elements that the Tab key reaches, in order. */
const STOPS = ['line', 'transport', 'reconnect', 'second', 'plain', ...['alfa', 'bravo', 'charlie'].flatMap((node) => [`drain-${node}`, `kill-${node}`, `replace-${node}`]), 'reload', 'log-frame', 'name', 'text', 'send', 'copy'];
const PHONE = { width: 375, height: 812 };
const DESK = { width: 1440, height: 900 };

test('demo: two visitors on different nodes chat over https, each session on one node', async (t) => {
  const { chat } = await startDemo(t);
  const browser = await launch(t);
  const ada = await Visitor.visit(browser, chat);
  const finn = await Visitor.visit(browser, chat);

  for (const visitor of [ada, finn]) {
    const node = await visitor.sessionNode();
    assert.deepEqual(await Promise.all(['handshake', 'polls', 'upgrade'].map((id) => visitor.fact(id))), [node, node, node]);
    const kinds = (await visitor.requests()).map(({ kind }) => kind);
    assert.equal(kinds[0], 'handshake');
    assert.ok(kinds.includes('poll') && kinds.includes('post'), `polled before the upgrade: ${kinds}`);
    assert.equal(kinds.at(-1), 'websocket');
    assert.deepEqual(await visitor.context.cookies(), [], 'no cookie is involved');
  }
  const nodes = [await ada.sessionNode(), await finn.sessionNode()];
  assert.notEqual(nodes[0], nodes[1], 'the second visitor goes to the node with fewer sessions');

  await ada.say('Ada', 'ahoy, <b>Finn</b>');
  assert.equal(await finn.hear('ahoy, <b>Finn</b>'), nodes[0]);
  await finn.say('Finn', 'ahoy, Ada');
  assert.equal(await ada.hear('ahoy, Ada'), nodes[1]);

  const late = await Visitor.visit(browser, chat);
  assert.equal(await late.hear('ahoy, Ada'), nodes[1], 'a later visitor sees earlier messages');
  for (const visitor of [ada, finn, late]) assert.deepEqual(visitor.complaints, []);
});

test('demo: plain http is redirected to the chat', async (t) => {
  const { chat, plain } = await startDemo(t);
  const visitor = await Visitor.visit(await launch(t), `${plain}/`);
  assert.equal(visitor.page.url(), `${chat}/`);
});

test('demo: each transport stays on its node, and a reconnect opens a new session', async (t) => {
  const { chat } = await startDemo(t);
  const visitor = await Visitor.visit(await launch(t), chat);
  const { page } = visitor;

  await page.getByRole('button', { name: 'Reconnect' }).click();
  await until('the second session', async () => (await visitor.sessions())[1]);
  await visitor.upgraded();
  assert.equal(await visitor.sessionNode(), (await visitor.sessions())[1]);

  await page.getByLabel('Polling only').check();
  await until('the third session', async () => (await visitor.sessions())[2]);
  for (let i = 0; i < 10; i++) {
    await visitor.say('Ada', `message ${i}.`);
    await visitor.hear(`message ${i}.`);
  }
  const polling = await visitor.sessionNode();
  const kinds = (await visitor.requests()).map(({ kind }) => kind);
  assert.ok(kinds.length > 10 && !kinds.includes('websocket'), kinds.join());

  await page.getByLabel('WebSocket only').check();
  await visitor.upgraded();
  assert.deepEqual((await visitor.requests()).map(({ kind }) => kind), ['websocket']);
  assert.equal((await visitor.sessions()).length, 4);
  assert.ok((await visitor.sessions()).every(Boolean), `each session had a node, polling was on ${polling}`);
  assert.deepEqual(visitor.complaints, []);
});

test('demo: the page fits a phone and a desk, light and dark, and works without a mouse', async (t) => {
  const { chat } = await startDemo(t);
  const browser = await launch(t);
  const other = await Visitor.visit(browser, chat);
  await other.say('Finn', 'Reading you through another node.');
  for (const colorScheme of ['light', 'dark']) {
    for (const viewport of [PHONE, DESK]) {
      const visitor = await Visitor.visit(browser, chat, { colorScheme, viewport, reducedMotion: 'reduce' });
      await visitor.hear('Reading you');
      await visitor.say('Ada', `Is anyone on another node? ${colorScheme} ${viewport.width}`);
      await visitor.hear(`${colorScheme} ${viewport.width}`);
      const { page } = visitor;
      const beyond = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(beyond <= 0, `${beyond} px too wide at ${viewport.width}`);
      assert.deepEqual(await tabStops(page), STOPS);
      if (process.env.SCREENSHOTS) {
        await page.mouse.click(1, 1);
        const path = join(process.env.SCREENSHOTS, `demo-${colorScheme}-${viewport.width}.png`);
        await page.screenshot({ path, fullPage: true });
      }
      assert.deepEqual(visitor.complaints, []);
      await visitor.context.close();
    }
  }
});

/** Names of the elements that the Tab key reaches, in order; asserts that each shows a focus ring. */
async function tabStops(page) {
  await page.evaluate(() => document.activeElement.blur());
  await page.mouse.click(1, 1);
  const stops = [];
  for (;;) {
    await page.keyboard.press('Tab');
    const stop = await page.evaluate(() => {
      const at = document.activeElement;
      const ringed = [at, at.nextElementSibling].some((e) => e && getComputedStyle(e).outlineStyle === 'solid');
      return at === document.body ? null : { name: at.id || at.name || at.type.replace('submit', 'send'), ringed };
    });
    if (!stop || stops.includes(stop.name)) return stops;
    assert.ok(stop.ringed, `${stop.name} shows its focus`);
    stops.push(stop.name);
  }
}

test('demo: the error for a port in use is one sentence that names the flag', async (t) => {
  const { chat, child } = await startDemo(t);
  const taken = new URL(chat).host;
  const second = new Child(BINARY, ['demo', '--listen-tls', taken, '--listen', '127.0.0.1:0']);
  const { code } = await soon('the second demo ends', second.exited);
  assert.equal(code, 1);
  const sentence = `--listen-tls: cannot listen on ${taken}: process ${child.pid} (moorline) already listens`;
  assert.deepEqual(second.output.split('\n').filter((line) => line.includes(taken)).length, 1, second.output);
  assert.ok(second.output.includes(sentence), second.output);
});

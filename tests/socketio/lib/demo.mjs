// A running `moorline demo`, and headless Chromium for visiting it.

import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

import { Child, scratch } from './process.mjs';
import { BINARY } from './proxy.mjs';
import { until } from './wait.mjs';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
/** Containers have no user namespaces for the browser's sandbox; background network access is turned off. */
const FLAGS = ['no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking',
  'disable-component-update', 'disable-sync'].map((flag) => `--${flag}`);

/** Starts the demo with these flags, on free ports, and waits until it is ready: `{ child, chat, plain }`. */
export async function startDemo(t, flags = []) {
  // A separate admin socket.
  const env = { XDG_RUNTIME_DIR: scratch() };
  const child = new Child(BINARY, ['demo', '--listen-tls', '127.0.0.1:0', '--listen', '127.0.0.1:0', ...flags], { env });
  t.after(async () => {
    const { code, signal } = await child.stop('SIGTERM');
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, child.output);
    assert.doesNotMatch(child.output, /panicked/);
  });
  await until(
    () => `the demo is ready:\n${child.output}`,
    () => {
      if (child.end) throw new Error(`the demo ended at start:\n${child.output}`);
      return / INFO ready$/m.test(child.output);
    },
  );
  const address = (scheme) => child.output.match(new RegExp(` INFO listening on (${scheme}://\\S+)`, 'm'))?.[1];
  return { child, chat: address('https'), plain: address('http') };
}

/** Headless Chromium, closed when test `t` ends. */
export async function launch(t) {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  t.after(() => browser.close());
  return browser;
}

/** One visitor of the chat page, with a separate browser profile. */
export class Visitor {
  /** Errors and warnings of the page. */
  complaints = [];

  /** Opens the page and waits until its session uses WebSocket. */
  static async visit(browser, address, settings = {}) {
    const visitor = new Visitor();
    visitor.context = await browser.newContext({ ignoreHTTPSErrors: true, ...settings });
    visitor.page = await visitor.context.newPage();
    visitor.page.on('pageerror', (error) => visitor.complaints.push(String(error)));
    visitor.page.on('console', (line) => {
      if (['error', 'warning'].includes(line.type())) visitor.complaints.push(line.text());
    });
    await visitor.page.goto(address);
    await visitor.upgraded();
    return visitor;
  }

  /** Presses a button of the page, and waits for the given message. */
  async press(button, said) {
    await this.page.getByRole('button', { name: button, exact: true }).click();
    await this.page.locator('#done', { hasText: said }).waitFor();
  }

  /** Waits until a node is in this state. */
  async sees(node, state) {
    await this.page.locator(`#node-${node}[data-state="${state}"]`).waitFor();
  }

  /** Waits for a new session that is not on `node` and uses WebSocket; returns its node. */
  async movesFrom(node) {
    const moved = async () => (await this.sessions()).at(-1) !== node && (await this.page.locator('#upgrade[data-node]:not([data-node=""])').count());
    await until(`a session that is not on ${node}`, moved);
    await this.upgraded();
    return this.sessionNode();
  }

  /** Waits until the current session uses WebSocket. */
  async upgraded() {
    await this.page.locator('#requests [data-kind="websocket"]').waitFor();
  }

  /** Node that a fact of the page names: `handshake`, `polls` or `upgrade`. */
  async fact(id) {
    return this.page.locator(`#${id}`).getAttribute('data-node');
  }

  /** All answered requests of the current session: `{ kind, node, fault }`. */
  async requests() {
    return this.page.locator('#requests li[data-node]').evaluateAll((items) => items.map((item) => ({ ...item.dataset })));
  }

  /** Nodes of this tab's sessions, oldest first. */
  async sessions() {
    return this.page.locator('#sessions li').evaluateAll((items) => items.map((item) => item.dataset.node));
  }

  /** Sends a chat message: fills in the fields, then presses Enter. */
  async say(name, text) {
    await this.page.getByLabel('Your name').fill(name);
    await this.page.getByLabel('Message', { exact: true }).fill(text);
    await this.page.keyboard.press('Enter');
  }

  /** Waits for a message and returns the node of its sender. */
  async hear(text) {
    const message = this.page.locator('#log li', { hasText: text });
    await message.waitFor();
    return message.getAttribute('data-node');
  }

  /** Asserts that the same node answered all requests of the current session without errors; returns the node. */
  async sessionNode() {
    const requests = await this.requests();
    const node = requests[0].node;
    assert.ok(node, 'the session has a node');
    assert.deepEqual(requests.filter((request) => request.node !== node || request.fault), [], `all by ${node}`);
    return node;
  }
}

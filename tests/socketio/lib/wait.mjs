// Waiting for conditions with a deadline.

import { setTimeout as pause } from 'node:timers/promises';

/** Time limit of each wait in milliseconds; far above the usual time, because machines can be busy. */
export const TIMEOUT = 60_000;

/** Calls `probe()` until it returns a truthy value, and resolves with it; fails after `within` ms. */
export async function until(what, probe, within = TIMEOUT) {
  const deadline = performance.now() + within;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (performance.now() > deadline) throw new Error(`not within ${within} ms: ${text(what)}`);
    await pause(10);
  }
}

/** Resolves or fails like `promise`, and fails after `within` ms. */
export async function soon(what, promise, within = TIMEOUT) {
  const timer = new AbortController();
  const late = pause(within, undefined, { signal: timer.signal }).then(
    () => Promise.reject(new Error(`not within ${within} ms: ${text(what)}`)),
    () => new Promise(() => {}),
  );
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}

/** A description can be a function, which then describes the state at the time of failure. */
function text(what) {
  return typeof what === 'function' ? what() : what;
}

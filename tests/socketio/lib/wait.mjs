// Waiting for conditions, always with a deadline, never for time to pass.

import { setTimeout as pause } from 'node:timers/promises';

/** Milliseconds that anything may take before a test gives up on it: ample, for machines with much to do. */
export const PATIENCE = 60_000;

/** Resolves with the first truthy value of `probe()`, asked every few milliseconds; fails by `within` ms. */
export async function until(what, probe, within = PATIENCE) {
  const deadline = performance.now() + within;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (performance.now() > deadline) throw new Error(`not within ${within} ms: ${text(what)}`);
    await pause(10);
  }
}

/** Resolves or fails as `promise` does, and fails by `within` ms. */
export async function soon(what, promise, within = PATIENCE) {
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

/** A description may be a function, so that it can tell the state at the time of failure. */
function text(what) {
  return typeof what === 'function' ? what() : what;
}

// The set-up of most tests: three nodes of one generation behind one proxy.

import { abandonAll } from './clients.mjs';
import { startNodes, stopNodes } from './nodes.mjs';
import { startProxy } from './proxy.mjs';

/**
 * Starts nodes and proxies, which end with test `t`, the proxies first. `listed` returns settings for the addresses of
 * the nodes; further settings are for the proxies.
 */
export async function startSite(t, { count = 3, proxies: proxyCount = 1, nodes: nodeOptions = {}, listed, ...settings } = {}) {
  const nodes = await startNodes(count, nodeOptions);
  let proxies = [];
  t.after(async () => {
    abandonAll();
    await Promise.all(proxies.map((proxy) => proxy.stop()));
    await stopNodes(nodes);
  });
  const backends = nodes.map((node) => node.address);
  const whole = { ...(listed?.(backends) ?? { backends }), ...settings };
  proxies = await Promise.all(Array.from({ length: proxyCount }, () => startProxy(whole)));
  return { nodes, proxies, proxy: proxies[0] };
}

// What nearly every test starts from: three nodes of one generation behind one proxy.

import { startNodes, stopNodes } from './nodes.mjs';
import { startProxy } from './proxy.mjs';

/** Starts `count` nodes and a proxy before them; both are stopped when test `t` ends. */
export async function startSite(t, { count = 3, nodes: nodeOptions = {}, ...settings } = {}) {
  const nodes = await startNodes(count, nodeOptions);
  t.after(() => stopNodes(nodes));
  const proxy = await startProxy({ backends: nodes.map((node) => node.address), ...settings });
  t.after(() => proxy.stop());
  return { nodes, proxy };
}

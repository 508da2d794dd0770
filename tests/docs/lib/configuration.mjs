// Configuration blocks of the docs: completes fragments to whole files, and lists the files that they name.

import { certificateFile } from './certificates.mjs';

/** Name of each table of a TOML text, in order: `[listeners.web]` → 'listeners.web'. */
function tables(text) {
  return [...text.matchAll(/^\s*\[{1,2}([\w."-]+)\]{1,2}/gm)].map(([, name]) => name);
}

/** Names of the direct subtables: `names(text, 'pools')` has `chat` for `[pools.chat.sticky]`. */
function names(text, table) {
  const found = new Set(tables(text).filter((name) => name.startsWith(`${table}.`)).map((name) => name.split('.')[1]));
  const inline = text.match(new RegExp(`^\\[${table}\\]\\s*\\n((?:(?!^\\[).*\\n?)*)`, 'm'));
  for (const [, name] of (inline?.[1] ?? '').matchAll(/^([\w-]+)\s*=/gm)) found.add(name);
  return found;
}

/** The lines of a table, without those of its subtables; undefined if the text does not have its header. */
function body(text, table) {
  const header = new RegExp(`^\\[${table.replaceAll('.', '\\.')}\\][^\\n]*\\n((?:(?!^\\s*\\[).*\\n?)*)`, 'm');
  return text.match(header)?.[1];
}

/** Adds lines to a table of the text: after its header, or as a new table in front of all tables. */
function extend(text, table, lines) {
  const header = new RegExp(`^(\\[${table.replaceAll('.', '\\.')}\\][^\\n]*\\n)`, 'm');
  if (header.test(text)) return text.replace(header, (whole) => whole + lines);
  const first = text.search(/^\s*\[/m);
  const at = first < 0 ? text.length : first;
  return `${text.slice(0, at)}\n[${table}]\n${lines}\n${text.slice(at)}`;
}

/** Adds the missing parts of a whole file to a fragment: a listener, the pools that are named, their backends. */
export function complete(fragment) {
  let text = fragment.endsWith('\n') ? fragment : `${fragment}\n`;
  let address = 11;
  let port = 8080;
  for (const pool of names(text, 'pools')) {
    const lines = body(text, `pools.${pool}`);
    const given = /^backends\s*=/m.test(lines ?? '') || tables(text).includes(`pools.${pool}.backends`);
    const inline = new RegExp(`^${pool}\\s*=\\s*\\{`, 'm').test(body(text, 'pools') ?? '');
    if (!given && !inline) text = extend(text, `pools.${pool}`, `backends = ["10.0.0.${address++}:3000"]\n`);
  }
  for (const listener of names(text, 'listeners')) {
    const table = `listeners.${listener}`;
    const lines = body(text, table) ?? '';
    const secure = /^\s*\[{1,2}listeners\.\w+\.(tls|certificates)/m.test(text) && tables(text).some((name) => name.startsWith(`${table}.tls`) || name.startsWith(`${table}.certificates`));
    const given = tables(text).some((name) => name.startsWith(`${table}.certificates`)) || /^certificates\s*=/m.test(lines);
    let more = '';
    if (!/^bind\s*=/m.test(lines)) more += `bind = "127.0.0.1:${port++}"\n`;
    if (!/^protocol\s*=/m.test(lines) && (secure || given)) more += 'protocol = "https"\n';
    const encrypted = /^protocol\s*=\s*"(https|tls)"/m.test(lines + more);
    if (encrypted && !given) more += 'certificates = [{ cert = "site.pem", key = "site.key" }]\n';
    if (more) text = extend(text, table, more);
  }
  const wanted = new Set([...text.matchAll(/^\s*pool\s*=\s*"([^"]+)"|[{,]\s*pool\s*=\s*"([^"]+)"/gm)].map(([, a, b]) => a ?? b));
  if (!names(text, 'listeners').size) {
    const routed = [...text.matchAll(/^listeners\s*=\s*\[([^\]]*)\]/gm)].flatMap(([, list]) => [...list.matchAll(/"([^"]+)"/g)].map(([, name]) => name));
    for (const name of routed.length ? new Set(routed) : ['web']) text += `\n[listeners.${name}]\nbind = "127.0.0.1:${port++}"\n`;
  }
  const pools = names(text, 'pools');
  const missing = [...wanted].filter((pool) => !pools.has(pool));
  for (const pool of missing.length || pools.size ? missing : ['app']) text += `\n[pools.${pool}]\nbackends = ["10.0.0.${address++}:3000"]\n`;
  if (pools.size + missing.length > 1 && !/^\[\[routes\]\]/m.test(text)) {
    text += `\n[[routes]]\npool = "${[...pools, ...missing][0]}"\n`;
  }
  return text;
}

/** The smallest API description. */
const DOCUMENT = 'openapi: 3.1.0\npaths: {}\n';

/** `{ path, content }` of the certificates, keys and lists that a configuration names. */
export function namedFiles(text) {
  const found = [];
  const code = text.replace(/(^|\s)#[^\n]*/g, '$1');
  for (const [, key, path] of code.matchAll(/\b(cert|key|ca|crl|ocsp)\s*=\s*"([^"]+)"/g)) {
    // Certificate and key may be in one file.
    const other = found.find((file) => file.path === path);
    if (!other) found.push({ path, content: certificateFile(key), keys: new Set([key]) });
    else if (!other.keys.has(key)) {
      other.keys.add(key);
      other.content = Buffer.concat([other.content, certificateFile(key)]);
    }
  }
  const secret = `${'0123456789abcdef'.repeat(4)}\n`;
  for (const [, name, path] of code.matchAll(/\b([\w.-]+)\s*=\s*\{\s*file\s*=\s*"([^"]+)"/g)) {
    if (name === 'access_log') continue;
    if (name === 'openapi') found.push({ path, content: DOCUMENT });
    else if (name === 'trusted_proxies') found.push({ path, content: '10.0.0.0/8\n' });
    else if (name === 'api_keys') found.push({ path, content: `mobile ${'0123456789abcdef'.repeat(4)}\n` });
    else if (name === 'basic') found.push({ path, content: `anna:$2y$04$${'a'.repeat(53)}\n` });
    else found.push({ path, content: name === 'backends' ? '10.0.0.11:3000\n10.0.0.12:3000\n' : secret });
  }
  // A folder exists if it has a file.
  for (const [, path] of code.matchAll(/\bfiles\s*=\s*(?:\{\s*root\s*=\s*)?"([^"]+)"/g)) {
    found.push({ path: `${path}/index.html`, content: 'hello\n' });
  }
  for (const [, path] of code.matchAll(/\bopenapi\s*=\s*"([^"]+)"/g)) found.push({ path, content: DOCUMENT });
  return found;
}

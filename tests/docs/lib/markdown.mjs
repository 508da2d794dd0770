// Markdown files of the repository: code blocks with their marks, links, anchors, inline code.

import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const SKIPPED = new Set(['.git', 'node_modules', 'target', 'book']);

/** Paths of all Markdown files, relative to the repository, sorted. */
export function markdownFiles(folder = ROOT) {
  const found = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (SKIPPED.has(entry.name)) continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) found.push(...markdownFiles(path));
    else if (entry.name.endsWith('.md')) found.push(relative(ROOT, path));
  }
  return found.sort();
}

/**
 * One parsed file: `blocks` ({ file, line, heading, language, marks, text }), `prose` (the lines outside of
 * blocks, blocks replaced by empty lines), `anchors` and `links` ({ line, target }).
 */
export function parse(file, source = readFileSync(join(ROOT, file), 'utf8')) {
  const blocks = [];
  const prose = [];
  const headings = [];
  let open;
  for (const [index, line] of source.split('\n').entries()) {
    const fence = line.match(/^( *)(`{3,}|~{3,})(.*)$/);
    if (open && fence && fence[2].startsWith(open.fence) && !fence[3].trim()) {
      blocks.push(open.block);
      open = undefined;
    } else if (open) {
      open.block.text += `${line.slice(open.indent)}\n`;
    } else if (fence) {
      const [language, ...marks] = fence[3].trim().split(/[, ]+/);
      const block = { file, line: index + 1, heading: headings.at(-1) ?? '', language, marks: markTable(marks), text: '' };
      open = { fence: fence[2], indent: fence[1].length, block };
    } else {
      const heading = line.match(/^#{1,6} +(.+?) *#*$/);
      if (heading) headings.push(heading[1]);
    }
    prose.push(open || fence ? '' : line);
  }
  if (open) throw new Error(`${file}:${open.block.line}: the code block has no end`);
  return { file, blocks, prose, anchors: anchors(headings, prose), links: links(prose) };
}

/** `['run', 'file=a.toml']` → Map of run → true, file → 'a.toml'. */
function markTable(marks) {
  return new Map(marks.filter(Boolean).map((mark) => {
    const at = mark.indexOf('=');
    return at < 0 ? [mark, true] : [mark.slice(0, at), mark.slice(at + 1)];
  }));
}

/** Anchors as GitHub and mdBook make them, with `-1`, `-2` … for repeated headings, and explicit `id="…"`. */
function anchors(headings, prose) {
  const seen = new Map();
  const found = new Set();
  for (const heading of headings) {
    const slug = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .replace(/[`*]/g, '')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{M}_\- ]/gu, '')
      .replaceAll(' ', '-');
    const times = seen.get(slug) ?? 0;
    seen.set(slug, times + 1);
    found.add(times ? `${slug}-${times}` : slug);
  }
  for (const line of prose) for (const [, id] of line.matchAll(/\b(?:id|name)="([^"]+)"/g)) found.add(id);
  return found;
}

function links(prose) {
  const found = [];
  for (const [index, whole] of prose.entries()) {
    const line = whole.replace(/(`+)(?:(?!\1).)*\1/g, (code) => code.replace(/[[\]()<>]/g, ' '));
    const add = (target) => found.push({ line: index + 1, target });
    for (const [, target] of line.matchAll(/\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/g)) add(target);
    for (const [, target] of line.matchAll(/^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)/g)) add(target);
    for (const [, target] of line.matchAll(/<(?:img|a|source)\b[^>]*?\b(?:src|href|srcset)="([^"\s]+)/g)) add(target);
  }
  return found;
}

/** Target of a link: `{ path, anchor }` with `path` relative to the repository, or undefined if it is external. */
export function linkTarget(file, target) {
  if (/^[a-z][a-z0-9+.-]*:|^\/\//i.test(target)) return undefined;
  const [path, anchor] = target.split('#');
  const whole = path ? resolve(ROOT, dirname(file), decodeURIComponent(path)) : join(ROOT, file);
  return { path: relative(ROOT, whole), anchor: anchor && decodeURIComponent(anchor) };
}

/** Inline code of a file: `{ line, code }`. */
export function inlineCode({ prose }) {
  return prose.flatMap((line, index) => [...line.matchAll(/`([^`]+)`/g)].map(([, code]) => ({ line: index + 1, code })));
}

/** Commands of a `sh` or `console` block with the output that follows each: `{ line, command, output }`. */
export function commands(block) {
  if (block.language !== 'console') return [{ line: block.line + 1, command: block.text, output: [] }];
  const found = [];
  let continued = false;
  for (const [index, line] of block.text.replace(/\n$/, '').split('\n').entries()) {
    if (continued) found.at(-1).command += `\n${line}`;
    else if (line.startsWith('$ ')) found.push({ line: block.line + 1 + index, command: line.slice(2), output: [] });
    else if (found.length) found.at(-1).output.push(line);
    else throw new Error(`${block.file}:${block.line + 1 + index}: a console block begins with "$ "`);
    continued = (continued || line.startsWith('$ ')) && line.endsWith('\\');
  }
  return found;
}

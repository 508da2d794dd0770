// Compares output in the docs with real output.

/** Patterns for parts of the output that differ between two runs of a command. */
const VARYING = [
  /\d{4}-\d\d-\d\dT[\d:.]+Z?/, // a time of the log
  /\d{4}-\d\d-\d\d(?: \d\d:\d\d(?::\d\d)?)?/, // a date
  /\b\d\d:\d\d(?::\d\d)?\b/, // a time of the clock
  /\b[0-9a-f]{16,}\b/, // an id
  /\b\d+(?:\.\d+)?(?: ?(?:µs|ms|s|m|h|d|days|hours|minutes|seconds)\b)(?: \d+(?:ms|s|m|h)\b)*/, // a duration
  /\b\d+(?:\.\d+)? ?(?:B|KiB|MiB|GiB)\b/, // a size
  /\b(?:pid|process) \d+/, // a process
];
const VARYING_ALL = new RegExp(VARYING.map((pattern) => `(${pattern.source})`).join('|'), 'g');

const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** A pattern for one printed line: `…` is any text, varying parts match any of their kind, spaces any spaces. */
function linePattern(line) {
  const literal = (text) => escape(text).replace(/…/g, '.*').replace(/ +/g, ' +');
  let pattern = '';
  let from = 0;
  for (const match of line.matchAll(VARYING_ALL)) {
    const kind = match.slice(1).findIndex((part) => part !== undefined);
    pattern += `${literal(line.slice(from, match.index))}(?:${VARYING[kind].source})`;
    from = match.index + match[0].length;
  }
  return `${pattern}${literal(line.slice(from))}`.replace(/(?: \+)?$/, '') + ' *';
}

/** Whether `output` is what the docs print; a line of nothing but `…` stands for any number of lines. */
export function matchesOutput(printed, output) {
  const lines = printed.filter((line) => !line.startsWith('-- '));
  while (lines.length && !lines.at(-1).trim()) lines.pop();
  const pattern = lines.map((line) => (line.trim() === '…' ? '(?:.*\\n)*?' : `${linePattern(line.trimEnd())}\\n`)).join('');
  // The lines of `moorline` that name the process, its file and its socket differ on each machine.
  return new RegExp(`^${pattern}$`).test(output.replace(/\r/g, '').replace(/^-- .*\n?/gm, '').replace(/\n*$/, lines.length ? '\n' : ''));
}

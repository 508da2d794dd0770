// The built programs, and what their `--help` says about subcommands and flags.

import { execFileSync } from 'node:child_process';
import { dirname, join } from 'node:path';

import { BINARY } from '../../socketio/lib/proxy.mjs';

const LOAD = process.env.MOORLINE_LOAD_BIN ?? join(dirname(BINARY), 'moorline-load');
export const PROGRAMS = new Map([['moorline', BINARY], ['moorline-load', LOAD]]);

const known = new Map();

/** `{ flags, commands, positional }` of a program and its subcommands, for example of `moorline`, `['backends', 'add']`. */
export function help(program, path = []) {
  const key = [program, ...path].join(' ');
  if (!known.has(key)) known.set(key, parseHelp(execFileSync(PROGRAMS.get(program), [...path, '--help'], { encoding: 'utf8' })));
  return known.get(key);
}

function parseHelp(text) {
  const flags = new Set();
  const commands = new Set();
  let section = '';
  for (const line of text.split('\n')) {
    const title = line.match(/^(\S.*):$/);
    if (title) section = title[1];
    const flag = line.match(/^ +(?:(-\w), )?(--[a-z][\w-]*)/) ?? line.match(/^ +(-\w)\b()/);
    if (flag && section !== 'Examples') flag.slice(1).filter(Boolean).forEach((name) => flags.add(name));
    const command = section === 'Commands' && line.match(/^ {2}([a-z][\w-]*)(?: |$)/);
    if (command) commands.add(command[1]);
  }
  return { flags, commands, positional: /^Arguments:$/m.test(text) };
}

/** Faults of all uses of the programs in shell text: unknown subcommands and unknown flags. */
export function usageFaults(text) {
  return simpleCommands(text).flatMap((words) => {
    const use = programOf(words);
    return use ? faultsOf(use.program, use.rest) : [];
  });
}

function faultsOf(program, words) {
  const path = [];
  const faults = [];
  const name = () => [program, ...path].join(' ');
  for (const [index, word] of words.entries()) {
    if (word === '--') break;
    const { flags, commands, positional } = help(program, path);
    if (/^--?[a-z]/.test(word)) {
      const flag = word.split('=')[0];
      if (!flags.has(flag)) faults.push(`${name()} has no flag ${flag}`);
    } else if (commands.has(word) && index === path.length) {
      path.push(word);
    } else if (index === path.length && commands.size && !positional) {
      faults.push(`${name()} has no subcommand ${word}`);
      break;
    }
  }
  return faults;
}

/** The program and its arguments if the words of a command start one of the built programs. */
function programOf(words) {
  let rest = words;
  while (rest.length && (/^\w+=/.test(rest[0]) || ['sudo', 'exec', 'time', 'env', 'nohup', 'command', '!', 'if', 'while', 'until', 'then', 'do'].includes(rest[0]))) rest = rest.slice(1);
  if (!rest.length) return undefined;
  const base = rest[0].split('/').at(-1);
  if (PROGRAMS.has(base)) return { program: base, rest: rest.slice(1) };
  if (base === 'cargo' && rest[1] === 'run') {
    const at = rest.indexOf('--');
    const load = rest.slice(0, at < 0 ? rest.length : at).includes('moorline-load');
    return at < 0 ? undefined : { program: load ? 'moorline-load' : 'moorline', rest: rest.slice(at + 1) };
  }
  return undefined;
}

/** Words of each simple command of shell text, without comments, redirections and quotes. */
export function simpleCommands(text) {
  const found = [];
  for (const line of withoutHeredocs(text).replace(/\\\n/g, ' ').split('\n')) {
    let words = [];
    let word;
    const endWord = () => { if (word !== undefined) words.push(word); word = undefined; };
    const endCommand = () => { endWord(); if (words.length) found.push(words); words = []; };
    for (let at = 0; at < line.length; at++) {
      const c = line[at];
      if (c === "'" || c === '"') {
        let end = at + 1;
        while (end < line.length && line[end] !== c) end += c === '"' && line[end] === '\\' ? 2 : 1;
        const quoted = line.slice(at + 1, end);
        for (const [, inner] of quoted.matchAll(/\$\(([^)]*)\)/g)) found.push(...simpleCommands(inner));
        word = (word ?? '') + quoted;
        at = end;
      } else if (c === '#' && word === undefined) {
        break;
      } else if (/\s/.test(c)) {
        endWord();
      } else if (/[;&|()`]/.test(c)) {
        endCommand();
      } else if (c === '<' || c === '>') {
        if (/^\d*$/.test(word ?? '')) word = undefined;
        endWord();
        const target = line.slice(at).match(/^[<>&]+\s*(?![(])[^\s;&|()]*/);
        at += target ? target[0].length - 1 : 0;
      } else {
        word = (word ?? '') + c;
      }
    }
    endCommand();
  }
  return found;
}

function withoutHeredocs(text) {
  return text.replace(/<<-?\s*(['"]?)(\w+)\1([^\n]*)\n[\s\S]*?\n\s*\2(?=\n|$)/g, '$3');
}

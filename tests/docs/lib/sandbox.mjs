// A sandbox for commands of the docs with a separate network, process namespace, /etc, /usr/local, /var and /run.
//
// The commands run unchanged: on port 443, in /etc/moorline, against 10.0.0.11:3000. Namespaces isolate them from the
// machine that runs the tests, and all processes end with the sandbox.

import { spawn } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { scratch } from '../../socketio/lib/process.mjs';
import { until } from '../../socketio/lib/wait.mjs';
import { HOSTS, siteCertificates } from './certificates.mjs';
import { ROOT } from './markdown.mjs';
import { PROGRAMS } from './programs.mjs';

const ADDRESSES = ['10.0.0.1', '10.0.0.11', '10.0.0.12', '10.0.0.13', '192.0.2.7'];
const READ_ONLY = ['/opt', '/root', '/home', '/srv'];
const END = '@@sandbox-end';
const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

export class Sandbox {
  /** `folder`: the working folder; `addresses`: further addresses of the loopback interface. */
  constructor({ addresses = [] } = {}) {
    this.folder = scratch();
    this.home = join(this.folder, 'home');
    const bin = join(this.folder, 'bin');
    for (const folder of [this.home, bin, join(this.folder, 'layers'), join(this.folder, 'run')]) mkdirSync(folder);
    chmodSync(join(this.folder, 'run'), 0o700);
    for (const [name, path] of PROGRAMS) {
      copyFileSync(path, join(bin, name));
      chmodSync(join(bin, name), 0o755);
    }
    const own = process.getuid() === 0 ? [] : ['--user', '--map-root-user'];
    const start = join(this.folder, 'start.sh');
    writeFileSync(start, this.startScript([...ADDRESSES, ...addresses]));
    this.output = '';
    this.process = spawn('unshare', [...own, '--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc', 'bash', start], {
      cwd: this.home,
      env: {
        PATH: `${bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`, HOME: this.home, LANG: 'C.UTF-8', NO_COLOR: '1', TERM: 'dumb',
        NODE_EXTRA_CA_CERTS: join(siteCertificates(), 'ca.pem'),
        XDG_RUNTIME_DIR: join(this.folder, 'run'), NODE_PATH: join(ROOT, 'tests/socketio/node_modules'),
      },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    running.add(this.process);
    const collect = (chunk) => (this.output += chunk);
    this.process.stdout.setEncoding('utf8').on('data', collect);
    this.process.stderr.setEncoding('utf8').on('data', collect);
    this.process.stdin.on('error', () => {});
    this.ended = new Promise((resolve) => this.process.once('close', resolve)).then(() => (this.over = true));
    this.turn = 0;
  }

  startScript(addresses) {
    const layers = join(this.folder, 'layers');
    return `set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 layers ${layers}
mkdir ${layers}/etc ${layers}/local ${layers}/machine ${layers}/var
# /etc is a copy, as far as this user can read it.
cp -r --preserve=mode,links /etc/. ${layers}/etc 2>/dev/null || true
# /usr/local has links to what the machine has; /var has empty folders.
mount --bind /usr/local ${layers}/machine
ln -s ${layers}/machine/* ${layers}/local/
for folder in bin sbin; do
  rm -f ${layers}/local/$folder
  mkdir ${layers}/local/$folder
  for program in ${layers}/machine/$folder/*; do ln -s "$program" ${layers}/local/$folder/; done
done
ln -s /run ${layers}/var/run
mkdir -p ${layers}/var/log/nginx ${layers}/var/lib/nginx ${layers}/var/cache ${layers}/var/tmp
mount --bind ${layers}/etc /etc
mount --bind ${layers}/local /usr/local
mount --bind ${layers}/var /var
for folder in ${READ_ONLY.join(' ')}; do
  [ ! -d "$folder" ] || { mount --bind "$folder" "$folder" && mount -o remount,bind,ro "$folder"; } 2>/dev/null || true
done
mount -t tmpfs -o mode=755 run /run
ip link set lo up
for address in ${addresses.join(' ')}; do ip address add "$address/32" dev lo; done
mkdir -p /etc/ssl/certs
cat ${join(siteCertificates(), 'ca.pem')} >>/etc/ssl/certs/ca-certificates.crt
printf '127.0.0.1 localhost ${HOSTS.join(' ')}\\n::1 localhost\\n' >/etc/hosts
cd ${this.home}
exec bash 2>&1
`;
  }

  /** Runs shell text in the sandbox's one shell; resolves with `{ status, output }`. */
  async run(command) {
    const mark = `${END} ${++this.turn}`;
    const from = this.output.length;
    this.process.stdin.write(`{ ${command}\n} </dev/null\nprintf '\\n${mark} %d\\n' $?\n`);
    const found = await until(
      () => `the end of: ${command}\n${this.output.slice(from)}`,
      () => this.output.slice(from).match(new RegExp(`\\n${mark} (\\d+)\\n`)) ?? this.failIfOver(command),
    );
    return { status: Number(found[1]), output: this.output.slice(from, from + found.index).replace(/^\n+/, '') };
  }

  /** Starts shell text in the background; resolves with a function that returns its output so far. */
  async start(command) {
    const log = `/tmp/background-${this.turn}.log`;
    const path = join(this.folder, `background-${this.turn}.log`);
    await this.run(`{ ${command}\n} >${path} 2>&1 & : ${log}`);
    return async () => (await this.run(`cat ${path}`)).output;
  }

  failIfOver(command) {
    if (this.over) throw new Error(`the sandbox ended in: ${command}\n${this.output}`);
    return undefined;
  }

  /** Copies or writes a file; a relative path is relative to the working folder. */
  async put(path, content) {
    const from = join(this.folder, `file-${++this.turn}`);
    writeFileSync(from, content);
    const { status, output } = await this.run(`mkdir -p '${dirname(path)}' && install -m 0600 '${from}' '${path}'`);
    if (status) throw new Error(`cannot write ${path} in the sandbox: ${output}`);
  }

  async close() {
    this.process.stdin.end('exit\n');
    this.process.kill('SIGKILL');
    await this.ended;
    running.delete(this.process);
  }
}

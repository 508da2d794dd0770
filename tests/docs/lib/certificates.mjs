// A certificate for the host names of the docs, from an authority that the sandbox trusts; made once per test file.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { scratch } from '../../socketio/lib/process.mjs';
import { ROOT } from './markdown.mjs';

export const HOSTS = ['chat.example.com', 'www.example.com', 'api.example.com', 'example.com', 'internal.example.com'];
const EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '90'];

let made;

/** Folder with `ca.pem`, and `site.pem` and `site.key` for all host names. */
export function siteCertificates() {
  if (made) return made;
  const folder = scratch();
  const openssl = (...args) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  openssl('req', '-x509', ...EC, '-subj', '/CN=authority of the docs', '-keyout', 'ca.key', '-out', 'ca.pem');
  openssl('req', ...EC.slice(0, -2), '-subj', '/CN=chat.example.com', '-keyout', 'site.key', '-out', 'site.csr');
  writeFileSync(join(folder, 'names'), `subjectAltName=${[...HOSTS, 'localhost'].map((host) => `DNS:${host}`).join()}\n`);
  openssl('x509', '-req', '-in', 'site.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '90', '-extfile', 'names', '-out', 'site.pem');
  made = folder;
  return folder;
}

/** Content of a certificate file that a configuration names, by the key that names it. */
export function certificateFile(key) {
  if (key === 'cert' || key === 'key') return readFileSync(join(siteCertificates(), key === 'cert' ? 'site.pem' : 'site.key'));
  return readFileSync(join(ROOT, 'certs', { ca: 'ca.pem', crl: 'revoked.crl', ocsp: 'signed.ocsp' }[key]));
}

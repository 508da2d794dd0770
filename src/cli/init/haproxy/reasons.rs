//! Why lines of HAProxy are not translated.

use super::{
    super::note::NoteKind::{self, Different, Unneeded, Unprotected, Untranslated},
    syntax::ConfigLine,
};

/// The reason for a section that is not translated line by line.
pub(super) fn of_section(kind: &str) -> Option<(NoteKind, &'static str)> {
    Some(match kind {
        "peers" => (
            Unneeded,
            "an unknown session is found on its backend; `cookie_key` shares cookies between proxies",
        ),
        "userlist" => {
            (Untranslated, "no translated rule uses these users; see `basic` in `auth` of routes")
        }
        "resolvers" => (
            Unneeded,
            "names are looked up by the system's resolver; `resolver` of a `dns` source sets another one",
        ),
        "cache" => (
            Different,
            "responses are stored as RFC 9111 says, on routes with `cache`; the top-level `cache` bounds them",
        ),
        "mailers" => (Untranslated, "Moorline sends no mail: use alerts on its metrics"),
        "program" | "fcgi-app" | "ring" | "log-forward" | "traces" => {
            (Untranslated, "there is no equivalent service")
        }
        "http-errors" => {
            (Untranslated, "`error_pages` takes HTML pages without the head of a reply")
        }
        "crt-store" => (Untranslated, "name the files in `certificates` of a listener"),
        _ => return None,
    })
}

/// The reason for a line that no part of the translation has used.
pub(super) fn of_line(line: &ConfigLine) -> (NoteKind, &'static str) {
    let one = line.word(0);
    let two = format!("{one} {}", line.word(1));
    if let Some(found) = request_header(line) {
        return found;
    }
    let named = |wanted: &str| {
        REASONS.iter().find(|(names, ..)| names.split(", ").any(|name| name == wanted))
    };
    if let Some((_, kind, reason)) = named(&two).or_else(|| named(one)) {
        return (*kind, reason);
    }
    match one {
        name if name.starts_with("tune.") => (Unneeded, PROCESS),
        name if name.starts_with("ssl-default") => (Untranslated, TLS),
        "option" | "no" => (Untranslated, "there is no equivalent option"),
        _ => (Untranslated, "there is no equivalent setting"),
    }
}

/// The reason for a rule that sets a header of requests.
pub(super) fn request_header(line: &ConfigLine) -> Option<(NoteKind, &'static str)> {
    let rule = (line.word(0), line.word(1));
    if !matches!(rule, ("http-request", "set-header" | "add-header" | "del-header")) {
        return None;
    }
    Some(match line.word(2).to_ascii_lowercase().as_str() {
        "x-forwarded-proto"
        | "x-forwarded-for"
        | "x-forwarded-port"
        | "x-forwarded-host"
        | "x-real-ip"
        | "x-forwarded-protocol"
        | "x-client-ip" => {
            (Unneeded, "backends get X-Forwarded-For, -Proto, -Host, -Port and X-Real-IP")
        }
        "x-request-id" => (Unneeded, "backends get X-Request-Id, as in the access log"),
        "forwarded" => (Different, "set `forwarded = \"always\"` at the top of the file"),
        name if name.starts_with("x-ssl") => (
            Different,
            "backends get X-Client-Cert-Subject and X-Client-Cert-Fingerprint with `tls.client_auth`",
        ),
        _ => return None,
    })
}

const PROCESS: &str = "Moorline uses every core and raises its limit of open files; the service manager sets the user";
const TLS: &str = "the default suites all have forward secrecy and authenticated encryption; `tls.cipher_suites` takes \
                   IANA names";
const LOG: &str = "the access log is a line of JSON for each request; `access_log` names a file";
const LIMIT: &str =
    "`limits.connections` of a pool and `connections_per_address` of a listener limit connections";
const RETRY: &str = "a request that was not sent, or is idempotent, is tried on another backend within a retry budget";
const ACCESS: &str = "Moorline has no equivalent check: use the app or the network for it";
const TUNED: &str = "connections are kept, and sockets are tuned, without settings";
const RESPONSES: &str = "no translated route uses it; see `headers` of routes";
const REWRITE: &str = "it has no equivalent; see `rewrite` of routes";
const FIELDS: &str = "no translated route uses it; see `headers` of routes";
const CHECKS: &str = "health checks are tcp, http, engine.io and websocket (`health.probe`)";
const TIMEOUTS: &str = "a connection waits for `timeouts.connect`, and a poll for its session";

/// Beginnings of lines, separated by commas, with what becomes of them and why.
const REASONS: [(&str, NoteKind, &str); 28] = [
    (
        "user, group, uid, gid, daemon, nbproc, nbthread, cpu-map, ulimit-n, chroot, pidfile, master-worker, node, \
      description, set-dumpable, presetenv, setenv, localpeer, fd-hard-limit, hard-stop-after, unix-bind, numa-cpu-mapping, \
      stats socket, stats timeout, insecure-fork-wanted, expose-experimental-directives, external-check, lua-load, \
      server-state-base, server-state-file, load-server-state-from-file, spread-checks, noepoll, grace, mworker-max-reloads",
        Unneeded,
        PROCESS,
    ),
    (
        "maxconn",
        Unneeded,
        "`limits.connections` is the limit for the process; its default follows from the limit of open files",
    ),
    (
        "log, log-format, log-format-sd, log-tag, log-send-hostname, error-log-format, option httplog, option tcplog, \
      option dontlognull, option dontlog-normal, option logasap, option log-separate-errors, option log-health-checks, \
      option socket-stats, option clitcpka, unique-id-format, unique-id-header, capture, declare, http-request capture, \
      http-request set-log-level",
        Different,
        LOG,
    ),
    ("fullconn, option contstats, rate-limit, backlog", Untranslated, LIMIT),
    ("option redispatch, retries, retry-on, option persist, option allbackups", Unneeded, RETRY),
    (
        "option forwardfor, option originalto",
        Unneeded,
        "backends get X-Forwarded-For, -Proto, -Host, -Port and X-Real-IP",
    ),
    (
        "option http-server-close, option http-keep-alive, option httpclose, option forceclose, option http-pretend-keepalive, \
      option prefer-last-server, option tcp-smart-accept, option tcp-smart-connect, option tcpka, option srvtcpka, \
      option splice-auto, option splice-request, option splice-response, option http-no-delay, option nolinger, \
      option abortonclose, option http-buffer-request, option http-use-htx, option accept-invalid-http-request, \
      option accept-invalid-http-response, option independent-streams, http-reuse, option checkcache, option idle-close-on-response, \
      option http-ignore-probes, option h1-case-adjust-bogus-client, option h1-case-adjust-bogus-server, no option",
        Unneeded,
        TUNED,
    ),
    (
        "mode, timeout connect, timeout server, timeout tunnel, timeout check, timeout http-request, timeout http-keep-alive, \
      timeout server-fin, balance, cookie, default_backend, option httpchk, default-server, ca-base, crt-base",
        Unneeded,
        "no translated directive uses it",
    ),
    (
        "timeout client, timeout client-fin",
        Different,
        "pauses of clients are limited by `timeouts.body_idle` and \
      `half_closed` of the pool, and by `keep_alive` of the listener",
    ),
    ("timeout queue, timeout tarpit, timeout client-hs", Untranslated, TIMEOUTS),
    (
        "option tcp-check, tcp-check, option ssl-hello-chk, option ldap-check, option mysql-check, option pgsql-check, \
      option redis-check, option smtpchk, option spop-check, option external-check, http-check, email-alert, \
      monitor, monitor-uri, monitor-net, monitor fail",
        Untranslated,
        CHECKS,
    ),
    (
        "stats, stats enable, stats uri, stats auth, stats refresh, stats realm, stats admin, stats hide-version, \
      stats show-legends, stats http-request, http-request use-service",
        Untranslated,
        "`admin` serves metrics for Prometheus, and \
      `moorline status` shows the state",
    ),
    ("acl", Untranslated, "no translated rule uses this ACL"),
    (
        "http-request deny, http-request tarpit, http-request reject, http-request auth, http-request silent-drop, \
      tcp-request connection, http-request wait-for-body, block, reqdeny, reqtarpit, http-response deny",
        Unprotected,
        ACCESS,
    ),
    (
        "http-request track-sc0, http-request track-sc1, http-request track-sc2, http-request sc-inc-gpc0, tcp-request session, \
      http-request sc-set-gpt0",
        Untranslated,
        "it has no equivalent; `limits` of routes, `connections_per_address` and `admission` limit \
      requests, connections and new sessions",
    ),
    (
        "stick-table, stick, stick on, stick match, stick store-request, stick store-response",
        Untranslated,
        "sessions are kept by \
      their ids, by a cookie or by the client's address",
    ),
    (
        "tcp-request inspect-delay, tcp-request content, tcp-response, tcp-request",
        Unneeded,
        "a ClientHello is waited for \
      without a setting (`handshake_timeout`)",
    ),
    (
        "http-response, http-after-response, rspadd, rspdel, rspidel, rspirep, rsprep",
        Untranslated,
        RESPONSES,
    ),
    (
        "http-request set-path, http-request replace-path, http-request replace-uri, http-request set-uri, \
      http-request replace-header, http-request replace-value, http-request set-query, http-request set-method, \
      http-request replace-pathq, reqrep, reqirep, reqadd, reqidel",
        Untranslated,
        REWRITE,
    ),
    (
        "http-request set-var, http-request unset-var, http-request lua, http-request do-resolve, http-request set-dst, \
      http-request set-map, http-request add-acl, http-request set-src, http-request normalize-uri",
        Untranslated,
        "there are no \
      variables",
    ),
    (
        "errorfile, errorfiles, http-error",
        Untranslated,
        "`error_pages` takes an HTML page without the head of a reply",
    ),
    (
        "http-request return, errorloc, errorloc302, errorloc303",
        Untranslated,
        "it has no equivalent; see `respond` and `redirect` of routes",
    ),
    (
        "http-request redirect, redirect",
        Untranslated,
        "it has no equivalent; see `redirect` of routes and of listeners",
    ),
    (
        "compression, filter, http-request cache-use, http-response cache-store",
        Untranslated,
        "no translated route uses it; see `compress` and `cache` of routes",
    ),
    (
        "http-request set-header, http-request add-header, http-request del-header",
        Untranslated,
        FIELDS,
    ),
    (
        "force-persist, ignore-persist, use-server, dispatch, hash-type, hash-balance-factor, http-send-name-header, \
      dynamic-cookie-key, source, transparent, id, guid, disabled, enabled, bind-process",
        Untranslated,
        "pools have no equivalent setting",
    ),
    (
        "ssl-default-bind-options, ssl-default-server-options, ssl-dh-param-file, tune.ssl.default-dh-param, ssl-server-verify, \
      ssl-default-bind-curves",
        Unneeded,
        "TLS is 1.2 and 1.3 with forward secrecy, and backends are verified",
    ),
    (
        "http-request allow, http-request set-nice, http-request set-tos, http-request set-mark, http-request set-priority-class, \
      http-request set-priority-offset, http-request set-timeout, http-request early-hint",
        Untranslated,
        "requests have no equivalent rules",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_one_reason() {
        let mut seen = std::collections::HashSet::new();
        for name in REASONS.iter().flat_map(|(names, ..)| names.split(", ")) {
            assert!(!name.is_empty() && seen.insert(name), "{name:?}");
            assert_eq!(name, name.trim(), "{name:?}");
        }
    }
}

//! Why directives of nginx are not translated.

use super::super::note::NoteKind::{self, Unneeded, Unprotected, Untranslated};

/// The reason for a directive that no part of the translation has used.
pub(super) fn reason(name: &str, args: &[String]) -> (NoteKind, &'static str) {
    let first = args.first().map_or("", String::as_str);
    if let Some(found) = by_argument(name, first) {
        return found;
    }
    let known = REASONS.iter().find(|(names, ..)| names.split(' ').any(|known| known == name));
    if let Some((_, kind, reason)) = known {
        return (*kind, reason);
    }
    let family = FAMILIES.iter().find(|(prefix, ..)| name.starts_with(prefix));
    match family {
        Some((_, kind, reason)) => (*kind, reason),
        None => (Untranslated, "there is no equivalent setting"),
    }
}

/// Reasons that depend on the first argument.
fn by_argument(name: &str, first: &str) -> Option<(NoteKind, &'static str)> {
    Some(match (name, first) {
        ("auth_basic" | "auth_request" | "auth_jwt", "off") | ("satisfy", "all") => {
            (Unneeded, "no access control is set here")
        }
        ("client_max_body_size", "0") => (Unneeded, "request bodies are not limited"),
        ("gzip" | "gunzip" | "proxy_cache" | "proxy_store" | "http2" | "http3", "off") => {
            (Unneeded, "this is off in Moorline")
        }
        ("proxy_redirect", "off" | "default") => {
            (Unneeded, "redirects of backends are forwarded unchanged")
        }
        ("proxy_ssl_verify", _) => (Unneeded, "no location uses TLS to its backends"),
        ("ssl_verify_client", "off") => (Unneeded, "clients need no certificate"),
        ("ssl_stapling", "off") => (Unneeded, "no OCSP response is stapled without `ocsp`"),
        _ => return None,
    })
}

const FILES: &str = "no translated location serves files by it; a route has files (`files`) or a backend, and does not look for a file first";
const NO_HEADERS: &str =
    "no translated location uses it; `headers` of a route changes fields of requests and responses";
const ACCESS: &str = "Moorline has no equivalent check: use the app or the network for it";
const RATE: &str = "it has no equivalent; see `limits` of routes";
const OTHER_PROTOCOL: &str =
    "Moorline forwards HTTP/1.1 and WebSocket only: keep nginx for this, as a backend";
const PROCESS: &str = "Moorline has no equivalent process setting";
const BUFFERS: &str = "bodies are streamed with bounded buffers";
const TUNED: &str = "sockets are tuned without settings";
const CACHE: &str = "see `cache` of routes, which follows RFC 9111";
const COMPRESS: &str =
    "see `compress` of routes, which chooses by type, size and `Accept-Encoding`";
const RETRY: &str = "a request that was not sent, or is idempotent, is tried on another backend within a retry \
                     budget";
const TICKETS: &str =
    "sessions are resumed by tickets with rolling keys; `ticket_keys` shares them";
const VARIABLES: &str = "variables are not supported";
const TOO_OLD: &str = "only TLS 1.2 and 1.3 with forward secrecy are supported";
const SCRIPT: &str = "Moorline runs no scripts";

/// Names, separated by blanks, with what becomes of them and why.
const REASONS: [(&str, NoteKind, &str); 51] = [
    (
        "user worker_processes worker_rlimit_nofile worker_cpu_affinity worker_priority pid daemon master_process \
      lock_file timer_resolution worker_shutdown_timeout worker_rlimit_core working_directory pcre_jit thread_pool \
      env debug_points",
        Unneeded,
        "Moorline uses every core and raises its limit of open files; the service \
      manager sets the user",
    ),
    (
        "events",
        Unneeded,
        "`limits.connections` is the limit for the process; its default follows from the limit of open files",
    ),
    ("load_module perl_modules perl_require", Unneeded, "there are no modules"),
    ("error_log", Unneeded, "the log goes to standard error; `RUST_LOG` sets its level"),
    (
        "access_log",
        Untranslated,
        "the access log is JSON on standard output; set `access_log = { file = \"…\" }` for \
      a file",
    ),
    (
        "log_format log_not_found open_log_file_cache log_subrequest",
        Untranslated,
        "the access log has one form: a line \
      of JSON",
    ),
    ("include", Untranslated, "the file cannot be read: what it has is not translated"),
    (
        "types default_type types_hash_max_size types_hash_bucket_size charset charset_types",
        Unneeded,
        "the app sets \
      its content types",
    ),
    (
        "server_names_hash_bucket_size server_names_hash_max_size variables_hash_max_size \
      variables_hash_bucket_size map_hash_max_size map_hash_bucket_size proxy_headers_hash_max_size \
      proxy_headers_hash_bucket_size",
        Unneeded,
        "tables grow by themselves",
    ),
    (
        "sendfile sendfile_max_chunk tcp_nopush tcp_nodelay aio directio output_buffers postpone_output \
      reset_timedout_connection lingering_close lingering_time lingering_timeout proxy_socket_keepalive \
      chunked_transfer_encoding msie_padding",
        Unneeded,
        TUNED,
    ),
    ("server_tokens", Unneeded, "Moorline sends no version"),
    ("root alias index try_files expires internal gzip_static mp4 flv", Untranslated, FILES),
    ("autoindex autoindex_format autoindex_exact_size", Untranslated, "folders are not listed"),
    (
        "etag if_modified_since open_file_cache open_file_cache_valid open_file_cache_min_uses open_file_cache_errors \
      disable_symlinks",
        Unneeded,
        "files have validators, and symbolic links do not lead out of their folder",
    ),
    ("add_header add_trailer more_set_headers more_clear_headers", Untranslated, NO_HEADERS),
    (
        "proxy_hide_header proxy_pass_header proxy_ignore_headers proxy_cookie_domain proxy_cookie_path \
      proxy_cookie_flags sub_filter sub_filter_once sub_filter_types proxy_redirect",
        Untranslated,
        "cookies, locations and bodies of responses are forwarded unchanged; `headers` of a route changes fields",
    ),
    (
        "error_page proxy_intercept_errors recursive_error_pages",
        Untranslated,
        "`error_pages` is for errors that the proxy reports itself; replies of backends are forwarded unchanged",
    ),
    ("gzip brotli zstd gunzip ssi addition_types", Untranslated, COMPRESS),
    ("client_max_body_size", Unneeded, "no translated location uses it"),
    (
        "client_body_buffer_size client_body_in_file_only client_body_in_single_buffer client_body_temp_path \
      client_header_buffer_size connection_pool_size request_pool_size proxy_buffering proxy_request_buffering \
      proxy_buffers proxy_buffer_size proxy_busy_buffers_size proxy_max_temp_file_size \
      proxy_temp_file_write_size proxy_temp_path proxy_limit_rate",
        Unneeded,
        BUFFERS,
    ),
    (
        "client_body_timeout send_timeout",
        Untranslated,
        "`timeouts.body_idle` of a pool limits pauses in both \
      directions, 60s by default",
    ),
    (
        "keepalive_requests keepalive_time keepalive_disable",
        Unneeded,
        "connections have no equivalent limit",
    ),
    (
        "proxy_http_version proxy_method proxy_pass_request_headers proxy_pass_request_body",
        Unneeded,
        "requests are \
      forwarded as HTTP/1.1, unchanged",
    ),
    ("proxy_next_upstream proxy_next_upstream_tries proxy_next_upstream_timeout", Unneeded, RETRY),
    ("proxy_bind", Untranslated, "the system chooses the source address"),
    ("proxy_ignore_client_abort", Untranslated, "the request ends when its client leaves"),
    (
        "proxy_ssl_server_name proxy_ssl_session_reuse",
        Unneeded,
        "SNI is sent and sessions are resumed",
    ),
    (
        "proxy_ssl_protocols proxy_ssl_ciphers proxy_ssl_conf_command proxy_ssl_verify_depth proxy_ssl_crl",
        Untranslated,
        "TLS to backends is TLS 1.2 and 1.3 with the suites of rustls; CRLs of backends are not checked",
    ),
    (
        "ssl_session_cache ssl_session_timeout ssl_session_tickets ssl_session_ticket_key",
        Unneeded,
        TICKETS,
    ),
    (
        "ssl_ciphers ssl_conf_command",
        Untranslated,
        "the default suites all have forward secrecy and authenticated \
      encryption; `tls.cipher_suites` takes IANA names",
    ),
    ("ssl_prefer_server_ciphers ssl_buffer_size", Unneeded, "the order of the server is used"),
    ("ssl_early_data", Untranslated, "there is no early data: an attacker could send it again"),
    ("ssl_dhparam", Unneeded, "key exchange is by elliptic curves and ML-KEM only"),
    (
        "ssl_stapling ssl_stapling_verify ssl_stapling_responder",
        Untranslated,
        "responses are not fetched: name a file as \
      `ocsp` of the certificate",
    ),
    ("ssl_trusted_certificate", Unneeded, "nginx uses it for OCSP stapling"),
    (
        "ssl_verify_depth ssl_ocsp ssl_ocsp_cache",
        Untranslated,
        "chains of client certificates are verified to `ca`, with \
      `crl`",
    ),
    ("ssl_password_file ssl_engine", Untranslated, "keys must not be encrypted"),
    (
        "http2 http3 http2_max_concurrent_streams quic_retry ssl_reject_handshake",
        Untranslated,
        "clients are served HTTP/1.1, \
      in which WebSockets and polls work",
    ),
    (
        "allow deny auth_basic auth_basic_user_file auth_request auth_request_set auth_jwt auth_jwt_key_file \
      valid_referers secure_link secure_link_md5 secure_link_secret ssl_verify_client",
        Unprotected,
        ACCESS,
    ),
    (
        "limit_req limit_req_zone limit_req_status limit_req_log_level limit_rate limit_rate_after limit_req_dry_run",
        Untranslated,
        RATE,
    ),
    (
        "limit_conn limit_conn_zone limit_conn_status limit_conn_log_level",
        Untranslated,
        "it has no equivalent; `connections_per_address` of a listener and `limits` of routes limit clients",
    ),
    ("fastcgi_pass uwsgi_pass scgi_pass grpc_pass memcached_pass", Untranslated, OTHER_PROTOCOL),
    ("map geo split_clients set perl_set js_set geoip_country geoip_city", Untranslated, VARIABLES),
    (
        "if rewrite return break rewrite_log",
        Untranslated,
        "it has no equivalent here; see `match`, `rewrite`, `redirect` and `respond` of routes",
    ),
    (
        "resolver resolver_timeout",
        Unneeded,
        "names are looked up by the system's resolver; `resolver` of a `dns` \
      source sets another one",
    ),
    ("zone zone_sync", Unneeded, "the state of backends is shared by all threads"),
    ("real_ip_recursive", Unneeded, "the nearest address that is not trusted is the client"),
    (
        "stub_status status api",
        Untranslated,
        "`admin` serves metrics for Prometheus, and `moorline status` shows the state",
    ),
    (
        "mirror mirror_request_body",
        Untranslated,
        "no translated location uses it; see `mirror` of routes",
    ),
    (
        "underscores_in_headers ignore_invalid_headers merge_slashes absolute_redirect port_in_redirect \
      server_name_in_redirect",
        Unneeded,
        "header names are forwarded unchanged, and paths are compared in a normalized form",
    ),
    (
        "large_client_header_buffers keepalive_timeout client_header_timeout ssl_protocols ssl_ecdh_curve \
      proxy_read_timeout proxy_send_timeout proxy_connect_timeout proxy_ssl_name proxy_ssl_trusted_certificate \
      proxy_ssl_certificate proxy_ssl_certificate_key ssl_certificate ssl_certificate_key real_ip_header \
      set_real_ip_from ssl_client_certificate ssl_crl ssl_stapling_file proxy_protocol proxy_timeout",
        Unneeded,
        "no translated directive uses it",
    ),
];

/// Beginnings of names, with what becomes of them and why.
const FAMILIES: [(&str, NoteKind, &str); 14] = [
    ("proxy_cache", Untranslated, CACHE),
    ("proxy_no_cache", Untranslated, CACHE),
    ("proxy_store", Untranslated, CACHE),
    ("gzip", Untranslated, COMPRESS),
    ("brotli", Untranslated, COMPRESS),
    ("fastcgi_", Untranslated, OTHER_PROTOCOL),
    ("uwsgi_", Untranslated, OTHER_PROTOCOL),
    ("scgi_", Untranslated, OTHER_PROTOCOL),
    ("grpc_", Untranslated, OTHER_PROTOCOL),
    ("js_", Untranslated, SCRIPT),
    ("lua_", Untranslated, SCRIPT),
    ("access_by_lua", Unprotected, ACCESS),
    ("ssl_", Untranslated, TOO_OLD),
    ("worker_", Unneeded, PROCESS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directive_has_one_reason() {
        let mut seen = std::collections::HashSet::new();
        for name in REASONS.iter().flat_map(|(names, ..)| names.split(' ')) {
            assert!(!name.is_empty() && seen.insert(name), "{name:?}");
        }
    }

    #[test]
    fn unknown_directives_have_a_reason_too() {
        assert_eq!(reason("xyzzy", &[]), (Untranslated, "there is no equivalent setting"));
        assert_eq!(reason("deny", &["all".to_owned()]).0, Unprotected);
        assert_eq!(reason("auth_basic", &["off".to_owned()]).0, Unneeded);
        assert_eq!(reason("proxy_cache_path", &[]), (Untranslated, CACHE));
    }
}

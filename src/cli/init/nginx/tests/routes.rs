//! What becomes of the directives of locations.

use super::*;

/// The text of the routes of a file, for `location PATH { proxy_pass http://127.0.0.1:1; DIRECTIVES }`.
fn located(path: &str, directives: &str) -> (String, Vec<Note>) {
    let file = format!(
        "server {{ listen 80; location {path} {{ {directives} }} location /other/ {{ proxy_pass http://127.0.0.1:9; }} {CHECKS} }}"
    );
    let translation = translated(&format!("http {{ {ZONES} {file} }}"));
    (text(&translation), translation.notes)
}

/// Locations for `auth_request`.
const CHECKS: &str = "location = /check { internal; proxy_pass http://users/verify; proxy_pass_request_body off; \
    proxy_set_header Content-Length \"\"; proxy_set_header X-Original-URI $request_uri; proxy_set_header X-Secret 1; } \
    location /plain { internal; proxy_pass https://auth.test; } \
    location /moving { internal; proxy_pass http://$host; } \
    location /several { internal; proxy_pass http://local; }";

/// Directives around the servers.
const ZONES: &str = "limit_req_zone $binary_remote_addr zone=one:10m rate=10r/s; \
    limit_req_zone $http_x_api_key zone=keys:10m rate=30r/m; limit_conn_zone $binary_remote_addr zone=addr:1m; \
    proxy_cache_path /var/cache keys_zone=store:10m; \
    split_clients $remote_addr $variant { 5% next; * stable; } \
    upstream next { server 127.0.0.1:11; } upstream stable { server 127.0.0.1:12; } \
    upstream users { server 127.0.0.1:13; } \
    upstream local { server unix:/run/app.sock; server 127.0.0.1:13 backup; } ";

#[test]
fn directives_become_settings_of_routes() {
    for (directives, expected) in [
        ("client_max_body_size 8m;", "max_body = \"8MiB\"\n"),
        ("allow 10.0.0.0/8; allow ::1; deny all;", "allow = [\"10.0.0.0/8\", \"::1/128\"]\n"),
        ("deny 192.0.2.7; allow all;", "deny = [\"192.0.2.7/32\"]\n"),
        ("deny all;", "respond = { status = 403 }\n"),
        (
            "limit_req zone=one burst=20 nodelay;",
            "limits = [{ key = \"client\", rate = \"10/s\", burst = 21 }]\n",
        ),
        (
            "limit_req zone=keys; limit_conn addr 10;",
            "limits = [{ key = \"header:x-api-key\", rate = \"30/m\", burst = 1 }, \
             { key = \"client\", concurrent = 10, tunnels = 10 }]\n",
        ),
        (
            "proxy_set_header X-Client $remote_addr; proxy_set_header X-Debug \"\"; proxy_set_header Host app.internal;",
            "rewrite.host = \"app.internal\"\nheaders.request = { remove = [\"X-Debug\"], set = { X-Client = \"{client_ip}\" } }\n",
        ),
        (
            "add_header X-Frame-Options DENY always; proxy_hide_header X-Powered-By; expires 1h;",
            "headers.response = { remove = [\"X-Powered-By\"], set = { Cache-Control = \"max-age=3600\" }, \
             append = { X-Frame-Options = \"DENY\" } }\n",
        ),
        (
            "gzip on; gzip_types text/css; gzip_min_length 256; gzip_comp_level 5; brotli on;",
            "compress = { encodings = [\"br\", \"gzip\"] }\n",
        ),
        (
            "gzip on; gzip_types text/css; gzip_min_length 256; gzip_comp_level 5;",
            "compress = { encodings = [\"gzip\"], types = [\"text/html\", \"text/css\"], min_size = \"256B\", level = 5 }\n",
        ),
        ("proxy_cache store; proxy_cache_valid 200 10m;", "cache = { lifetime = \"10m\" }\n"),
        ("proxy_cache store;", "cache = true\n"),
        (
            "auth_jwt site token=$cookie_token; auth_jwt_key_file /etc/keys.json;",
            "auth = { jwt = { keys = \"/etc/keys.json\", token = \"cookie:token\" } }\n",
        ),
        (
            "auth_basic Staff; auth_basic_user_file /etc/users;",
            "auth = { basic = { file = \"/etc/users\" } }\n",
        ),
        (
            "satisfy any; deny all; auth_basic Staff; auth_basic_user_file /etc/users;",
            "pool = \"app-1\"\nauth = { basic = { file = \"/etc/users\" } }\n",
        ),
        (
            "satisfy any; allow ::1; deny all; auth_basic x; auth_basic_user_file /u;",
            "auth = { basic = { file = \"/u\" } }\nallow = [\"::1/128\"]\n",
        ),
        (
            "satisfy any; auth_basic x; auth_basic_user_file /u; auth_jwt x; auth_jwt_key_file /k;",
            "auth = { jwt = { keys = \"/k\" }, basic = { file = \"/u\" } }\n",
        ),
        (
            "auth_request /check; auth_request_set $user $upstream_http_x_user; proxy_set_header X-User $user; \
             auth_request_set $renewed $upstream_http_set_cookie; add_header Set-Cookie $renewed;",
            "auth = { forward = { url = \"http://127.0.0.1:13/verify\", copy = [\"X-User\"], \
             copy_back = [\"Set-Cookie\"] } }\n",
        ),
        ("auth_request /plain;", "auth = { forward = { url = \"https://auth.test/plain\" } }\n"),
        (
            "rewrite ^/app1/(.*)$ /$1 break;",
            "rewrite.regex = { pattern = \"/app1/(.*)\", with = \"/$1\" }\n",
        ),
        (
            "rewrite \\.html$ /page break;",
            "rewrite.regex = { pattern = \".*?\\\\.html\", with = \"/page\" }\n",
        ),
        (
            "error_page 502 503 504 /down.html; error_page 404 /none.html; root /srv/pages;",
            "error_pages = { 5xx = \"/srv/pages/down.html\", 404 = \"/srv/pages/none.html\" }\n",
        ),
    ] {
        let (text, _) = located("/", &format!("proxy_pass http://127.0.0.1:1; {directives}"));
        assert!(text.contains(expected), "{directives}\n{text}");
    }
}

#[test]
fn directives_without_an_equivalent_are_noted() {
    for (directives, directive, reason) in [
        ("add_header X-A $upstream_addr;", "add_header", "`$upstream_addr`"),
        ("add_header X-A 1;", "add_header", "every status"),
        ("add_header Link a; add_header Link b;", "add_header Link b", "once"),
        ("add_header Connection close;", "add_header", "itself"),
        ("proxy_set_header X-A $cookie_a;", "proxy_set_header", "`$cookie_a`"),
        ("limit_req zone=none;", "limit_req", "key"),
        ("limit_req zone=one burst=5;", "limit_req", "not delayed"),
        ("rewrite ^/(?!x)(.*)$ /$1 break;", "rewrite", "no equivalent"),
        ("rewrite ^/a$ /b?c=d break;", "rewrite", "no equivalent"),
        ("error_page 404 =200 /empty.gif;", "error_page", "other statuses"),
        ("error_page 404 @fallback;", "error_page", "named locations"),
        ("proxy_cache store;", "proxy_cache store", "RFC 9111"),
        ("auth_jwt x token=$sent_http_x; auth_jwt_key_file k;", "auth_jwt x", ""),
        ("expires $later;", "expires", "duration"),
        ("auth_basic x; auth_basic_user_file /u;", "auth_basic_user_file", "bcrypt"),
        ("auth_basic x; auth_basic_user_file $site;", "auth_basic x", "no equivalent check"),
        ("auth_request /none;", "auth_request", "no equivalent check"),
        ("auth_request /moving;", "auth_request", "no equivalent check"),
        ("auth_request /several;", "auth_request", "no equivalent check"),
        // nginx requires both, and Moorline one.
        (
            "auth_request /plain; auth_basic x; auth_basic_user_file /u;",
            "auth_basic x",
            "no equivalent check",
        ),
        (
            "satisfy any; allow ::1; deny all; auth_basic x; auth_basic_user_file /u;",
            "satisfy any",
            "not one of both",
        ),
        (
            "auth_request /check; auth_request_set $u $upstream_http_x_user; proxy_set_header X-Name $u;",
            "proxy_set_header X-Name",
            "no such variable",
        ),
        ("auth_request /check;", "proxy_set_header X-Secret", "fields of the client's request"),
    ] {
        let (_, notes) = located("/", &format!("proxy_pass http://127.0.0.1:1; {directives}"));
        let found = kinds(&notes, directive);
        assert!(found.iter().any(|(_, found)| found.contains(reason)), "{directives}: {notes:?}");
    }
}

#[test]
fn locations_without_a_backend_answer_by_themselves() {
    for (path, directives, expected) in [
        (
            "= /ping",
            "return 200 pong; default_type text/html;",
            "path = \"/ping\"\nrespond = { status = 200, body = \"pong\", type = \"text/html\" }\n",
        ),
        (
            "/json/",
            "return 200 '{\"a\":1}';",
            "respond = { status = 200, body = \"{{\\\"a\\\":1}}\" }\n",
        ),
        ("/gone/", "return 410;", "respond = { status = 410 }\n"),
        (
            "/old/",
            "return 301 https://new.test$request_uri;",
            "redirect = { to = \"https://new.test{path}{query}\", status = 301 }\n",
        ),
        (
            "/old/",
            "return https://new.test/;",
            "redirect = { to = \"https://new.test/\", status = 302 }\n",
        ),
        (
            "/old/",
            "rewrite ^(.*)$ https://new.test$1 permanent;",
            "redirect = { to = \"https://new.test{path}{query}\", status = 301 }\n",
        ),
        (
            "/old/",
            "rewrite ^ /new/ redirect;",
            "redirect = { to = \"/new/{query}\", status = 302 }\n",
        ),
        (
            "/",
            "root /srv/www; index home.html; try_files $uri $uri/ /app.html; gzip_static on;",
            "files = { root = \"/srv/www\", index = \"home.html\", spa = \"/app.html\", precompressed = true }\n",
        ),
        (
            "/static/",
            "alias /srv/assets/; expires max;",
            "files = { root = \"/srv/assets/\" }\nrewrite.strip_prefix = \"/static\"\n\
             headers.response = { set = { Cache-Control = \"max-age=315360000\" } }\n",
        ),
    ] {
        let (text, notes) = located(path, directives);
        assert!(text.contains(expected), "{directives}\n{text}\n{notes:?}");
    }
    // What protects a location is not lost by serving it.
    let (text, notes) = located("/secret/", "root /srv; auth_basic x;");
    assert!(!text.contains("/secret/"), "{text}");
    assert!(!kinds(&notes, "location /secret/").is_empty(), "{notes:?}");
    for (directives, directive) in [
        ("return 444;", "return"),
        ("return 200 $upstream_x;", "return"),
        ("return 301 //x;", "return"),
    ] {
        let (_, notes) = located("/x/", directives);
        assert_eq!(kinds(&notes, directive)[0].0, NoteKind::Untranslated, "{directives}");
    }
}

#[test]
fn the_uri_of_a_backend_rewrites_the_path() {
    let of = |location: &str, pass: &str| located(location, &format!("proxy_pass {pass};"));
    for (location, pass, expected) in [
        ("/chat/", "http://127.0.0.1:1/", "rewrite.strip_prefix = \"/chat\"\n"),
        ("/chat", "http://127.0.0.1:1/", "rewrite.strip_prefix = \"/chat\"\n"),
        (
            "/chat/",
            "http://127.0.0.1:1/talk/",
            "rewrite.replace = { from = \"/chat\", to = \"/talk\" }\n",
        ),
        ("/", "http://127.0.0.1:1/app/", "rewrite.replace = { from = \"/\", to = \"/app\" }\n"),
        ("= /x", "http://127.0.0.1:1/y", "rewrite.replace = \"/y\"\n"),
        ("/u/", "http://unix:/run/app.sock:/", "rewrite.strip_prefix = \"/u\"\n"),
    ] {
        let (text, notes) = of(location, pass);
        assert!(text.contains(expected), "{location} {pass}\n{text}\n{notes:?}");
    }
    for (location, pass) in [
        ("/chat/", "http://127.0.0.1:1"),
        ("/chat/", "http://127.0.0.1:1/chat/"),
        ("/", "http://127.0.0.1:1/"),
        ("/chat/", "http://127.0.0.1:1$request_uri"),
    ] {
        let (text, notes) = of(location, pass);
        assert!(
            !text.contains("rewrite")
                && kinds(&notes, "proxy_pass")
                    .iter()
                    .all(|(_, reason)| !reason.contains("rewritten")),
            "{text}"
        );
    }
    let (_, notes) = of("/chat/", "http://127.0.0.1:1/other");
    assert!(kinds(&notes, "proxy_pass").iter().any(|(_, reason)| reason.contains("not rewritten")));
}

#[test]
fn shares_mirrors_sockets_and_backups_are_translated() {
    let (text, notes) = located("/", "proxy_pass http://$variant;");
    let expected =
        "split = [{ pool = \"next\", weight = 500 }, { pool = \"stable\", weight = 9500 }]\n";
    assert!(text.contains(expected), "{text}\n{notes:?}");
    let (text, _) = located("/", "proxy_pass http://local;");
    assert!(text.contains("    \"unix:/run/app.sock\",\n"), "{text}");
    assert!(text.contains("    { address = \"127.0.0.1:13\", backup = true },\n"), "{text}");
    let (text, notes) = located(
        "/",
        "proxy_pass http://stable; mirror /copy; } \
         location = /copy { internal; proxy_pass http://next$request_uri;",
    );
    assert!(text.contains("pool = \"stable\"\nmirror = \"next\"\n"), "{text}\n{notes:?}");
    assert!(!text.contains("/copy"), "{text}");
    let (text, _) = located("/", "proxy_pass http://unix:/run/other.sock;");
    assert!(text.contains("[pools.other]") && text.contains("\"unix:/run/other.sock\""), "{text}");
}

#[test]
fn a_server_that_only_redirects_or_serves_files_has_routes() {
    let translation = translated(
        "server { listen 80; server_name a.test; location / { proxy_pass http://127.0.0.1:1; } }\n\
         server { listen 80; server_name old.test; return 301 https://a.test$request_uri; }\n\
         server { listen 80; server_name b.test; return 301 https://$host$request_uri; }\n\
         server { listen 81; root /srv/www; location / { try_files $uri =404; } }",
    );
    let text = text(&translation);
    for expected in [
        "host = \"old.test\"\npath = \"/\"\nredirect = { to = \"https://a.test{path}{query}\", status = 30",
        "host = \"b.test\"\npath = \"/\"\nredirect = { to = \"https://{host}{path}{query}\", status = 301 }\n",
        "[listeners.http-81]",
        "files = { root = \"/srv/www\" }\nlisteners = [\"http-81\"]\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

//! Single rules of the translation; whole files are under `tests/init`.

mod routes;

use std::{io, path::Path};

use super::{
    super::{
        Translation,
        files::SourceFiles,
        note::{Note, NoteKind},
    },
    translate,
};

fn translated(text: &str) -> Translation {
    let read = |path: &Path| match path == Path::new("nginx.conf") {
        true => Ok(text.to_owned()),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let list = |_: &Path| Err(io::ErrorKind::NotFound.into());
    translate(Path::new("nginx.conf"), &SourceFiles { read: &read, list: &list }).unwrap()
}

fn text(translation: &Translation) -> String {
    translation.draft.text("", &[])
}

fn kinds<'n>(notes: &'n [Note], directive: &str) -> Vec<(NoteKind, &'n str)> {
    let of = notes.iter().filter(|note| note.directive.starts_with(directive));
    of.map(|note| (note.kind, note.reason.as_str())).collect()
}

#[test]
fn no_directive_is_dropped_silently() {
    let file = "xyzzy_main;\n\
                http {\n xyzzy_http;\n\
                upstream u { xyzzy_upstream; server 127.0.0.1:1 xyzzy_parameter=1; }\n\
                server {\n listen 80 xyzzy_listen; xyzzy_server;\n\
                location / { xyzzy_location; proxy_pass http://u; location /x { xyzzy_inner; proxy_pass http://u; } }\n\
                xyzzy_block { a b; }\n}\n}\n\
                stream {\n xyzzy_stream;\n server { xyzzy_l4; listen 1 xyzzy_tcp; proxy_pass 127.0.0.1:2; }\n}";
    let translation = translated(file);
    let all: String = translation.notes.iter().map(|note| note.text() + "\n").collect();
    for place in [
        "main",
        "http",
        "upstream",
        "parameter",
        "listen",
        "server",
        "location",
        "inner",
        "block",
        "stream",
        "l4",
        "tcp",
    ] {
        assert!(all.contains(&format!("xyzzy_{place}")), "{place}: {all}");
    }
}

#[test]
fn a_file_of_servers_needs_no_http_block() {
    let translation =
        translated("server { listen 8080; location / { proxy_pass http://127.0.0.1:3000; } }");
    let text = text(&translation);
    assert!(
        text.contains("bind = \"0.0.0.0:8080\"") && text.contains("\"127.0.0.1:3000\""),
        "{text}"
    );
    assert!(!text.contains("host ="), "without a name, the server has every host: {text}");
}

#[test]
fn access_control_that_is_lost_is_said_first() {
    let translation = translated(
        "server { listen 80; location / { proxy_pass http://127.0.0.1:1; auth_basic x; allow 10.1.2.3; deny 10.0.0.0/8; } \
         location /private/ { internal; root /x; } }",
    );
    let lost = |directive: &str| kinds(&translation.notes, directive)[0].0 == NoteKind::Unprotected;
    assert!(lost("auth_basic") && lost("deny 10") && lost("location /private/"));
    let text = translation.draft.text("", &translation.notes);
    assert!(text.find("ACCESS CONTROL").unwrap() < text.find("[listeners").unwrap(), "{text}");
}

#[test]
fn a_pool_of_several_locations_has_the_longest_timeouts() {
    let translation = translated(
        "proxy_connect_timeout 3s;\nupstream u { server 127.0.0.1:1; }\n\
         server { listen 80; location / { proxy_pass http://u; proxy_read_timeout 30; } \
         location /ws/ { proxy_pass http://u; proxy_read_timeout 10m; proxy_set_header Upgrade $http_upgrade; } }",
    );
    let text = text(&translation);
    for setting in [
        "timeouts.connect = \"3s\"",
        "timeouts.response_header = \"10m\"",
        "timeouts.tunnel_idle = \"10m\"",
    ] {
        assert!(text.contains(setting), "{text}");
    }
    let (kind, reason) = kinds(&translation.notes, "proxy_read_timeout 10m")[0];
    assert!(kind == NoteKind::Different && reason.contains("longest"), "{reason}");
}

#[test]
fn a_client_certificate_that_one_server_needs_is_needed_on_its_listener() {
    let server = |name: &str, verify: &str| {
        format!(
            "server {{ listen 443 ssl; server_name {name}; ssl_certificate a.pem; ssl_certificate_key a.key; {verify} \
             location / {{ proxy_pass http://127.0.0.1:1; }} }}\n"
        )
    };
    let file = server("a.test", "")
        + &server("b.test", "ssl_client_certificate ca.pem; ssl_verify_client on;");
    let translation = translated(&file);
    let text = text(&translation);
    assert!(text.contains("tls.client_auth.mode = \"required\""), "{text}");
    assert_eq!(kinds(&translation.notes, "ssl_verify_client")[0].0, NoteKind::Different);
}

#[test]
fn a_name_in_a_variable_is_a_source() {
    let translation = translated(
        "resolver 127.0.0.11;\nserver { listen 80; location / { set $app chat; proxy_pass http://$app:3000; } \
         location /x/ { proxy_pass http://$unknown; } }",
    );
    let text = text(&translation);
    assert!(text.contains("backends = { dns = \"chat:3000\" }"), "{text}");
    assert_eq!(
        kinds(&translation.notes, "proxy_pass http://$unknown")[0].0,
        NoteKind::Untranslated
    );
}

#[test]
fn servers_with_the_same_locations_keep_their_listeners_apart() {
    let translation = translated(
        "server { listen 80; server_name a.test; location / { proxy_pass http://127.0.0.1:1; } }\n\
         server { listen 81; server_name a.test; location / { proxy_pass http://127.0.0.1:2; } }\n\
         server { listen 81; server_name b.test; location / { proxy_pass http://127.0.0.1:1; } }",
    );
    let text = text(&translation);
    assert_eq!(text.matches("[[routes]]").count(), 3, "{text}");
    assert!(
        text.contains("listeners = [\"http\"]") && text.contains("listeners = [\"http-81\"]"),
        "{text}"
    );
}

#[test]
fn sticky_cookies_of_the_commercial_version_are_translated() {
    let translation = translated(
        "upstream u { server 127.0.0.1:1; server 127.0.0.1:2; sticky cookie srv_id expires=1h path=/ httponly \
         samesite=none secure domain=.example.com; }\n\
         server { listen 80; location / { proxy_pass http://u; health_check uri=/ok interval=5 fails=3; } }",
    );
    let text = text(&translation);
    for setting in [
        "sticky.cookie.name = \"srv_id\"",
        "sticky.cookie.lifetime = \"1h\"",
        "sticky.cookie.same_site = \"none\"",
        "sticky.cookie.secure = true",
        "health.path = \"/ok\"",
        "health.interval = \"5s\"",
        "health.fall = 3",
    ] {
        assert!(text.contains(setting), "{setting}: {text}");
    }
    let notes = kinds(&translation.notes, "sticky cookie");
    assert!(notes.iter().any(|(_, reason)| reason.contains("domain=.example.com")), "{notes:?}");
}

//! Variables of nginx in the templates of Moorline.

/// Variables and their templates.
const VARIABLES: [(&str, &str); 18] = [
    ("host", "{host}"),
    ("http_host", "{host}"),
    ("server_name", "{host}"),
    ("remote_addr", "{client_ip}"),
    ("binary_remote_addr", "{client_ip}"),
    ("realip_remote_addr", "{client_ip}"),
    ("scheme", "{scheme}"),
    ("request_method", "{method}"),
    ("request_id", "{request_id}"),
    ("request_uri", "{path}{query}"),
    ("uri", "{path}"),
    ("document_uri", "{path}"),
    ("ssl_protocol", "{tls_version}"),
    ("ssl_server_name", "{tls_server_name}"),
    ("ssl_client_s_dn", "{certificate_subject}"),
    ("is_args_args", "{query}"),
    ("proxy_add_x_forwarded_for", "{client_ip}"),
    ("http_x_request_id", "{request_id}"),
];

/// Translates a text with variables.
///
/// # Errors
/// The first variable that has no equivalent.
pub(super) fn template(text: &str) -> Result<String, String> {
    // The query is one variable with its question mark.
    let text = ["$is_args$args", "$is_args$query_string", "?$args", "?$query_string"]
        .iter()
        .fold(text.to_owned(), |text, query| text.replace(query, "${is_args_args}"));
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['$', '{', '}']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let special = &after[..1];
        rest = &after[1..];
        if special != "$" {
            out.push_str(&special.repeat(2));
            continue;
        }
        let name = match rest.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((name, after)) => {
                rest = after;
                name
            }
            None => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
                rest = after;
                name
            }
        };
        match VARIABLES.iter().find(|(known, _)| *known == name) {
            Some((_, template)) => out.push_str(template),
            None => return Err(format!("${name}")),
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::template;

    #[test]
    fn variables_become_those_of_templates() {
        for (text, expected) in [
            ("plain", "plain"),
            ("https://$host$request_uri", "https://{host}{path}{query}"),
            ("https://new.test$uri$is_args$args", "https://new.test{path}{query}"),
            ("/new?$args", "/new{query}"),
            ("${scheme}://x-$remote_addr!", "{scheme}://x-{client_ip}!"),
            ("{\"a\": 1}", "{{\"a\": 1}}"),
        ] {
            assert_eq!(template(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(template("a $unknown_1 b").unwrap_err(), "$unknown_1");
        assert_eq!(template("$1").unwrap_err(), "$1");
    }
}

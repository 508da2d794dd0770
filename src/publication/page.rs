//! A page that shows a description: HTML without scripts, bounded in size.

use serde_json::Value;

use super::{
    schema_text,
    style::{STYLE, policy},
};

/// Size at which no more operations are added, in bytes.
const LARGEST: usize = 2 << 20;

/// Most operations.
const MOST_OPERATIONS: usize = 1_000;

/// Most schemas, parameters and responses in a list.
const MOST_LISTED: usize = 200;

/// Longest text of a document, in characters.
const LONGEST_TEXT: usize = 4_000;

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// A page.
pub(crate) struct PublishedPage {
    /// The HTML.
    pub(crate) text: String,
    /// Value of `Content-Security-Policy`.
    pub(crate) policy: &'static str,
}

/// Shows a document.
pub(crate) fn page(document: &Value) -> PublishedPage {
    let mut page = PageText { document, out: String::new() };
    page.whole();
    PublishedPage { text: page.out, policy: policy() }
}

/// An operation of the document.
struct ShownOperation<'a> {
    method: &'static str,
    path: &'a str,
    item: &'a Value,
    value: &'a Value,
}

struct PageText<'a> {
    document: &'a Value,
    out: String,
}

impl<'a> PageText<'a> {
    fn whole(&mut self) {
        let document = self.document;
        let title = text(document.pointer("/info/title")).unwrap_or("API").trim();
        self.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        self.raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n");
        self.raw(&format!(
            "<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n<title>",
            policy()
        ));
        self.escaped(title);
        self.raw(&format!("</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"));
        self.raw(
            "<a class=\"skip\" href=\"#operations\">Skip to the operations</a>\n<header>\n<h1>",
        );
        self.escaped(title);
        self.raw("</h1>\n");
        if let Some(version) = text(document.pointer("/info/version")) {
            self.raw("<p class=\"soft\">Version ");
            self.escaped(version);
            self.raw("</p>\n");
        }
        self.paragraph(document.pointer("/info/description"));
        self.raw("</header>\n<div class=\"columns\">\n");
        let operations = self.operations();
        self.contents(&operations);
        self.raw("<main id=\"operations\" tabindex=\"-1\">\n<h2>Operations</h2>\n");
        let mut shown = 0;
        for (index, operation) in operations.iter().enumerate().take(MOST_OPERATIONS) {
            if self.out.len() > LARGEST {
                break;
            }
            self.operation(index, operation);
            shown += 1;
        }
        if shown < operations.len() {
            let all = operations.len();
            self.raw(&format!(
                "<p>These are the first {shown} of {all} operations. <code>moorline openapi export</code> writes all.</p>\n"
            ));
        } else if operations.is_empty() {
            self.raw("<p>There is none.</p>\n");
        }
        self.schemas();
        self.raw("</main>\n</div>\n</body>\n</html>\n");
    }

    /// All operations, in the order of the document.
    fn operations(&self) -> Vec<ShownOperation<'a>> {
        let paths = self.document.get("paths").and_then(Value::as_object);
        let mut all = Vec::new();
        for (path, item) in paths.into_iter().flatten() {
            for method in METHODS {
                if let Some(value) = item.get(method) {
                    all.push(ShownOperation { method, path, item, value });
                }
            }
        }
        all
    }

    /// Links to the operations.
    fn contents(&mut self, operations: &[ShownOperation<'_>]) {
        self.raw("<nav aria-label=\"Operations\">\n<ul>\n");
        for (index, operation) in operations.iter().enumerate().take(MOST_OPERATIONS) {
            if self.out.len() > LARGEST / 4 {
                break;
            }
            self.raw(&format!("<li><a href=\"#operation-{index}\">"));
            self.name(operation);
            self.raw("</a></li>\n");
        }
        self.raw("</ul>\n</nav>\n");
    }

    fn name(&mut self, operation: &ShownOperation<'_>) {
        let method = operation.method;
        self.raw(&format!(
            "<span class=\"method {method}\">{}</span> <code>",
            method.to_ascii_uppercase()
        ));
        self.escaped(operation.path);
        self.raw("</code>");
    }

    fn operation(&mut self, index: usize, operation: &ShownOperation<'_>) {
        let value = operation.value;
        self.raw("<details class=\"one\"><summary>");
        let is_old = value.get("deprecated") == Some(&Value::Bool(true));
        self.raw(if is_old { "<span class=\"old\">" } else { "<span>" });
        self.name(operation);
        self.raw("</span> ");
        if is_old {
            self.raw("(deprecated) ");
        }
        self.escaped(
            text(value.get("summary")).or(text(operation.item.get("summary"))).unwrap_or_default(),
        );
        // A link to the content opens it.
        self.raw(&format!("</summary><div id=\"operation-{index}\">\n"));
        self.paragraph(operation.item.get("description"));
        self.paragraph(value.get("description"));
        self.servers(operation.item.get("servers"));
        self.security(value.get("security"));
        self.parameters([operation.item, value]);
        if let Some(body) = value.get("requestBody").map(|body| self.resolved(body)) {
            self.raw("<h3>Request body</h3>\n");
            self.paragraph(body.get("description"));
            self.content(body.get("content"));
        }
        self.responses(value.get("responses"));
        self.raw("</div></details>\n");
    }

    fn servers(&mut self, servers: Option<&Value>) {
        let servers = servers.and_then(Value::as_array);
        let urls = servers.into_iter().flatten().filter_map(|server| text(server.get("url")));
        for url in urls.filter(|url| *url != "/").take(MOST_LISTED) {
            self.raw("<p class=\"soft\">At <code>");
            self.escaped(url);
            self.raw("</code></p>\n");
        }
    }

    fn security(&mut self, security: Option<&Value>) {
        let alternatives = security.and_then(Value::as_array);
        let Some(alternatives) = alternatives.filter(|alternatives| !alternatives.is_empty())
        else {
            return;
        };
        self.raw("<h3>Authentication</h3>\n<ul>\n");
        for alternative in alternatives.iter().take(MOST_LISTED) {
            self.raw("<li>");
            let needed = alternative.as_object();
            for (index, (name, scopes)) in
                needed.into_iter().flatten().enumerate().take(MOST_LISTED)
            {
                self.raw(if index == 0 { "" } else { " and " });
                self.scheme(name);
                let scopes: Vec<&str> =
                    scopes.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                if !scopes.is_empty() {
                    self.raw(" with the scopes ");
                    self.escaped(&scopes.join(", "));
                }
            }
            self.raw("</li>\n");
        }
        self.raw("</ul>\n");
    }

    /// A security scheme in words.
    fn scheme(&mut self, name: &str) {
        let schemes = self.document.pointer("/components/securitySchemes");
        let scheme = schemes.and_then(|schemes| schemes.get(name)).unwrap_or(&Value::Null);
        let part = |key: &str| text(scheme.get(key)).unwrap_or_default();
        match (part("type"), part("scheme")) {
            ("http", "bearer") => self.raw("A token in <code>Authorization: Bearer</code>"),
            ("http", "basic") => self.raw("Name and password"),
            ("mutualTLS", _) => self.raw("A client certificate"),
            ("apiKey", _) => {
                self.raw("A key or token in the ");
                self.escaped(part("in"));
                self.raw(" <code>");
                self.escaped(part("name"));
                self.raw("</code>");
            }
            _ => self.escaped(name),
        }
    }

    fn parameters(&mut self, parts: [&Value; 2]) {
        let listed = parts.into_iter().filter_map(|part| part.get("parameters")?.as_array());
        let all: Vec<&Value> = listed.flatten().take(MOST_LISTED).collect();
        if all.is_empty() {
            return;
        }
        self.raw("<h3>Parameters</h3>\n<div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"Parameters\"><table>\n");
        self.raw("<thead><tr><th scope=\"col\">Name</th><th scope=\"col\">In</th><th scope=\"col\">Type</th><th scope=\"col\">Description</th></tr></thead>\n<tbody>\n");
        for parameter in all {
            let parameter = self.resolved(parameter);
            self.raw("<tr><th scope=\"row\"><code>");
            self.escaped(text(parameter.get("name")).unwrap_or_default());
            self.raw("</code></th><td>");
            self.escaped(text(parameter.get("in")).unwrap_or_default());
            self.raw("</td><td><code>");
            let schema = parameter.get("schema").unwrap_or(&Value::Bool(true));
            self.escaped(&schema_text::schema(schema));
            self.raw("</code>");
            if parameter.get("required") == Some(&Value::Bool(true)) {
                self.raw(", required");
            }
            self.raw("</td><td>");
            self.escaped(text(parameter.get("description")).unwrap_or_default());
            self.raw("</td></tr>\n");
        }
        self.raw("</tbody></table></div>\n");
    }

    fn responses(&mut self, responses: Option<&Value>) {
        let responses = responses.and_then(Value::as_object);
        let Some(responses) = responses.filter(|responses| !responses.is_empty()) else { return };
        self.raw("<h3>Responses</h3>\n");
        for (status, response) in responses.iter().take(MOST_LISTED) {
            let response = self.resolved(response);
            self.raw("<p class=\"text\"><code>");
            self.escaped(status);
            self.raw("</code> ");
            self.escaped(text(response.get("description")).unwrap_or_default());
            self.raw("</p>\n");
            self.content(response.get("content"));
        }
    }

    /// Media types with their schemas.
    fn content(&mut self, content: Option<&Value>) {
        let content = content.and_then(Value::as_object);
        for (media_type, value) in content.into_iter().flatten().take(MOST_LISTED) {
            self.raw("<p class=\"soft\"><code>");
            self.escaped(media_type);
            self.raw("</code></p>\n");
            if let Some(schema) = value.get("schema") {
                self.schema(schema);
            }
        }
    }

    fn schema(&mut self, schema: &Value) {
        self.raw("<pre tabindex=\"0\"><code>");
        self.escaped(&schema_text::schema(schema));
        self.raw("</code></pre>\n");
    }

    /// The schemas that references name.
    fn schemas(&mut self) {
        let schemas = self.document.pointer("/components/schemas").and_then(Value::as_object);
        let Some(schemas) = schemas.filter(|schemas| !schemas.is_empty()) else { return };
        self.raw("<h2>Schemas</h2>\n");
        for (name, schema) in schemas.iter().take(MOST_OPERATIONS) {
            if self.out.len() > LARGEST {
                break;
            }
            self.raw("<h3>");
            self.escaped(name);
            self.raw("</h3>\n");
            self.paragraph(schema.get("description"));
            self.schema(schema);
        }
    }

    /// What a reference names, if it is one; references of references are not followed.
    fn resolved(&self, value: &'a Value) -> &'a Value {
        let reference = value.get("$ref").and_then(Value::as_str);
        let target = reference.and_then(|reference| reference.strip_prefix('#'));
        target.and_then(|pointer| self.document.pointer(pointer)).unwrap_or(value)
    }

    fn paragraph(&mut self, value: Option<&Value>) {
        if let Some(text) = text(value).filter(|text| !text.trim().is_empty()) {
            self.raw("<p class=\"text\">");
            self.escaped(text.trim());
            self.raw("</p>\n");
        }
    }

    fn raw(&mut self, html: &str) {
        self.out.push_str(html);
    }

    /// Adds a text of the document.
    fn escaped(&mut self, text: &str) {
        if self.out.len() > 2 * LARGEST {
            return;
        }
        for (index, character) in text.chars().enumerate() {
            if index == LONGEST_TEXT {
                self.out.push('…');
                return;
            }
            match character {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&#39;"),
                // Controls, and marks that change the direction of what follows.
                '\n' | '\t' => self.out.push(character),
                c if c.is_control() => self.out.push('\u{fffd}'),
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.out.push('\u{fffd}'),
                c => self.out.push(c),
            }
        }
    }
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str)
}

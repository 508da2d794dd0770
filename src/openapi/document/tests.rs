use super::*;
use crate::openapi::operation::RequestParts;

const CHAT: &str = r##"
openapi: 3.1.0
info: { title: Chat, version: "1" }
servers: [{ url: "https://api.example.com/v1/" }]
security: [{ key: [] }]
x-moorline-route: { pool: chat }
paths:
  /rooms/{room}:
    parameters: [{ $ref: "#/components/parameters/Room" }]
    get:
      operationId: readRoom
      parameters:
        - { name: limit, in: query, schema: { type: integer, maximum: 100 } }
        - { name: tag, in: query, schema: { type: array, items: { type: string, maxLength: 3 } } }
        - { name: X-Kind, in: header, required: true, schema: { enum: [a, b] } }
    post:
      security: []
      x-moorline-route: { pool: other }
      requestBody:
        required: true
        content:
          application/json: { schema: { $ref: "#/components/schemas/Message" } }
          text/plain: {}
  /rooms/new:
    get: {}
components:
  parameters:
    Room: { name: room, in: path, required: true, schema: { type: string, pattern: "^[a-z]+$" } }
  schemas:
    Message:
      type: object
      required: [text]
      properties: { text: { type: string, maxLength: 5 }, reply: { $ref: "#/components/schemas/Message" } }
"##;

fn check(method: Method, target: &str, header: &[(&str, &str)]) -> Result<(), RequestRefusal> {
    let document = ApiDocument::parse(CHAT).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let found = document.find(&method, path)?;
    let query = crate::openapi::query_values(query);
    let fields = |name: &str| {
        let named = header.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| (*value).to_owned()).collect()
    };
    let content_type =
        header.iter().find(|(name, _)| *name == "Content-Type").map(|(_, value)| *value);
    let has_body = content_type.is_some();
    let parts =
        RequestParts { query: &query, header: &fields, cookies: &[], content_type, has_body };
    found.operation.check_head(&found.path, &parts)
}

/// The faults of a request, as they are shown.
fn faults(refusal: Result<(), RequestRefusal>) -> Vec<String> {
    match refusal {
        Err(RequestRefusal::Invalid(faults)) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

const KIND: &[(&str, &str)] = &[("x-kind", "a")];

#[test]
fn a_request_finds_its_operation() {
    let document = ApiDocument::parse(CHAT).unwrap();
    assert_eq!(document.operations().len(), 3);
    let found = document.find(&Method::GET, "/rooms/blue").unwrap();
    let room = [("room", "blue".to_owned())];
    assert_eq!((found.operation.id.as_deref(), &*found.path), (Some("readRoom"), &room[..]));
    assert_eq!(document.find(&Method::GET, "/rooms/new").unwrap().operation.path, "/rooms/new");
    assert_eq!(document.find(&Method::GET, "/x").unwrap_err(), RequestRefusal::UnknownPath);
    let refused = document.find(&Method::DELETE, "/rooms/blue").unwrap_err();
    let methods = vec![Method::GET, Method::POST, Method::HEAD];
    assert_eq!(refused, RequestRefusal::UnknownMethod(methods));
    let head = document.find(&Method::HEAD, "/rooms/blue").unwrap();
    assert_eq!(head.operation.method, Method::GET);
    let server = ApiServer { host: Some("api.example.com".to_owned()), base: "/v1".to_owned() };
    assert_eq!(document.servers, [server]);
    assert_eq!(document.below_server("/v1/rooms"), Some("/rooms"));
    assert_eq!(document.below_server("/v2/rooms"), None);
}

#[test]
fn parameters_are_checked() {
    assert_eq!(check(Method::GET, "/rooms/blue?limit=7&tag=a&tag=b", KIND), Ok(()));
    for (target, header, name) in [
        ("/rooms/Blue", KIND, "path parameter room: "),
        ("/rooms/blue?limit=101", KIND, "query parameter limit: "),
        ("/rooms/blue?limit=x", KIND, "query parameter limit: "),
        ("/rooms/blue?limit=1&limit=2", KIND, "query parameter limit: it occurs several times"),
        ("/rooms/blue?tag=long", KIND, "query parameter tag: "),
        ("/rooms/blue", &[("x-kind", "c")], "header parameter X-Kind: "),
        ("/rooms/blue", &[("x-kind", "a"), ("x-kind", "b")], "header parameter X-Kind: it occurs"),
        ("/rooms/blue", &[], "header parameter X-Kind: it is missing"),
    ] {
        let faults = faults(check(Method::GET, target, header));
        assert!(faults[0].starts_with(name) && faults.len() == 1, "{target}: {faults:?}");
        assert!(!faults[0].contains("Blue") && !faults[0].contains("101"), "{faults:?}");
    }
    assert_eq!(faults(check(Method::GET, "/rooms/Blue?limit=x", &[])).len(), 3);
}

#[test]
fn bodies_are_checked() {
    let json = &[("Content-Type", "application/json; charset=utf-8")][..];
    let html = &[("Content-Type", "text/html")][..];
    assert_eq!(faults(check(Method::POST, "/rooms/blue", &[])), ["body: it is missing"]);
    assert_eq!(check(Method::POST, "/rooms/blue", json), Ok(()));
    assert_eq!(check(Method::POST, "/rooms/blue", html), Err(RequestRefusal::MediaType));
    let document = ApiDocument::parse(CHAT).unwrap();
    let found = document.find(&Method::POST, "/rooms/blue").unwrap();
    let body = |text: &str| found.operation.check_body(Some("application/json"), text.as_bytes());
    assert_eq!(body(r#"{"text":"hello","reply":{"text":"x"}}"#), Ok(()));
    for wrong in ["{", "{\"text\":\"a\",\"text\":\"too long\"}", "[1] 2"] {
        assert!(faults(body(wrong))[0].starts_with("body: it is not JSON"), "{wrong}");
    }
    assert_eq!(faults(body("")), ["body: it is missing"]);
    let two = faults(body(r#"{"text":7,"reply":{"text":"secret"}}"#));
    assert!(two.iter().any(|fault| fault.starts_with("body at /text: ")), "{two:?}");
    assert!(two.iter().any(|fault| fault.starts_with("body at /reply/text: ")), "{two:?}");
    assert!(!two.concat().contains("secret"), "{two:?}");
    let closed = CHAT.replace("required: [text]", "additionalProperties: false");
    let closed = ApiDocument::parse(&closed).unwrap();
    let operation = closed.find(&Method::POST, "/rooms/blue").unwrap().operation;
    let long = format!("{{\"{}\":1}}", "x".repeat(100_000));
    let named = faults(operation.check_body(Some("application/json"), long.as_bytes()));
    assert!(named.concat().len() < 1_000, "{}", named.concat().len());
    let checks = |content_type| found.operation.checks_body(Some(content_type));
    assert!(!checks("text/plain") && checks("application/json"));
}

#[test]
fn schemas_of_version_3_0_are_understood() {
    let text =
        CHAT.replace("3.1.0", "3.0.3").replace("maxLength: 5", "maxLength: 5, nullable: true");
    let document = ApiDocument::parse(&text).unwrap();
    let found = document.find(&Method::POST, "/rooms/blue").unwrap();
    let body = |text: &str| found.operation.check_body(Some("application/json"), text.as_bytes());
    assert_eq!(body(r#"{"text":null}"#), Ok(()));
    assert!(body(r#"{"text":7}"#).is_err());
}

/// The first fault of a document, and its text.
fn fault(text: &str) -> (String, Option<String>) {
    let faults = ApiDocument::parse(text).unwrap_err();
    let place = faults[0].place.clone();
    (faults[0].message.clone(), place.map(|at| text[at].to_owned()))
}

#[test]
fn a_fault_has_its_place() {
    let of = |from: &str, to: &str| {
        assert!(CHAT.contains(from), "{from}");
        let (message, place) = fault(&CHAT.replace(from, to));
        (message, place.unwrap_or_default())
    };
    let old = fault("swagger: \"2.0\"");
    assert_eq!(old.0, "Swagger 2.0 is not supported");
    assert_eq!(fault("info: {}").0, "this is not an OpenAPI document: `openapi` is missing");
    assert!(fault("a: [").0.starts_with("this is not YAML or JSON: "));
    assert_eq!(of("3.1.0", "4.0.0").1, "4.0.0");
    let room = "Room: { name: room, in: path, required: true, schema: { type: string, pattern: \"^[a-z]+$\" } }";
    let circle = of(room, "Room: { $ref: \"#/components/parameters/Room\" }");
    assert_eq!(circle.0, "the references lead in a circle");
    for outside in ["other.yaml#/Room", "https://api.test/x.yaml", "file:///etc/passwd"] {
        let (message, place) = of("#/components/parameters/Room", outside);
        assert_eq!(message, "the reference leads out of the document");
        assert!(place.contains(outside), "{place}");
    }
    let missing = of("#/components/schemas/Message\" } }", "#/components/schemas/Missing\" } }");
    assert_eq!(missing.0, "the document has no `/components/schemas/Missing`");
    let (message, place) = of("^[a-z]+$", "(a");
    assert!(message.contains("not valid"), "{message} at {place}");
    assert_eq!(of("/rooms/new:", "rooms:").1, "rooms");
    assert_eq!(of("in: query", "in: form").0, "a parameter needs `name` and `in`");
    let several = CHAT.replace("in: query", "in: form").replace("/rooms/new:", "rooms:");
    assert_eq!(ApiDocument::parse(&several).unwrap_err().len(), 2);
}

#[test]
fn names_may_be_numbers_and_documents_json() {
    let text = CHAT.replace("operationId: readRoom", "responses: { 200: { description: ok } }");
    let json = value(&text).unwrap().to_string();
    assert!(json.contains("\"200\""), "{json}");
    let escaped = json.replace("\"Chat\"", "\"\\ud83d\\ude00 \\/\"");
    assert_eq!(value(&escaped).unwrap()["info"]["title"], "\u{1f600} /");
}

/// Patterns that make other engines hang, values that aliases multiply, and schemas that lead to themselves twice.
#[test]
fn hostile_documents_and_requests_are_bounded() {
    let slow = CHAT.replace("^[a-z]+$", "^(([a-z])+.)+[A-Z]([a-z])+$");
    let document = ApiDocument::parse(&slow).unwrap();
    let long = format!("/rooms/{}", "a".repeat(60_000));
    let found = document.find(&Method::GET, &long).unwrap();
    let header = |_: &str| vec!["a".to_owned()];
    let none = RequestParts {
        query: &[],
        header: &header,
        cookies: &[],
        content_type: None,
        has_body: false,
    };
    assert!(found.operation.check_head(&found.path, &none).is_err());
    let (message, _) = fault(&CHAT.replace("^[a-z]+$", "(?=a)b"));
    assert!(message.contains("not valid"), "{message}");
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(", ")));
    }
    assert!(ApiDocument::parse(&bomb).is_err());
    assert!(ApiDocument::parse(&"[".repeat(100_000)).is_err());
    assert!(ApiDocument::parse(&format!("openapi: 3.1.0\nx: {}", "{a: ".repeat(10_000))).is_err());
}

#[test]
fn a_schema_with_two_ways_to_itself_takes_linear_time() {
    let expression = r##"
openapi: 3.1.0
paths:
  /x:
    post:
      requestBody: { content: { application/json: { schema: { $ref: "#/components/schemas/Term" } } } }
components:
  schemas:
    Term:
      WAYS:
        - { type: object, properties: { kind: { const: and }, at: { $ref: "#/components/schemas/Term" } } }
        - { type: object, properties: { kind: { const: or }, at: { $ref: "#/components/schemas/Term" } } }
        - { type: integer }
"##;
    let start = std::time::Instant::now();
    for ways in ["oneOf", "anyOf"] {
        let document = ApiDocument::parse(&expression.replace("WAYS", ways)).unwrap();
        let found = document.find(&Method::POST, "/x").unwrap();
        let nested = |inner: &str| {
            let depth = 100;
            format!("{}{inner}{}", r#"{"at":"#.repeat(depth), r#","kind":"or"}"#.repeat(depth))
        };
        let check =
            |body: &str| found.operation.check_body(Some("application/json"), body.as_bytes());
        assert_eq!(check(&nested("7")), Ok(()), "{ways}");
        assert!(!faults(check(&nested("\"x\""))).is_empty(), "{ways}");
    }
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

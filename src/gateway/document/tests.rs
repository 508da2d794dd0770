//! Tests of changes of JSON.

use super::*;

fn config(rename: &[(&str, &str)], drop: &[&str], mask: &[&str]) -> BodyChange {
    let path = |path: &&str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
    BodyChange {
        limit: 1 << 20,
        passes_others: false,
        passes_faults: false,
        rename: rename.iter().map(|(from, to)| (path(from), (*to).to_owned())).collect(),
        drop: drop.iter().map(path).collect(),
        mask: mask.iter().map(path).collect(),
        template: None,
    }
}

fn fields(rename: &[(&str, &str)], drop: &[&str], mask: &[&str]) -> Arc<Document> {
    Document::new(&config(rename, drop, mask)).unwrap()
}

fn filled(template: &str) -> Arc<Document> {
    let template = Some(template.to_owned());
    Document::new(&BodyChange { template, ..config(&[], &[], &[]) }).unwrap()
}

fn facts() -> DocumentFacts {
    DocumentFacts {
        method: "GET".into(),
        host: "app.test".into(),
        path: "/x".into(),
        status: Some(200),
    }
}

fn applied(document: &Document, body: &str) -> Result<String, DocumentFault> {
    document.apply(body.as_bytes(), &facts()).map(|body| String::from_utf8(body).unwrap())
}

#[test]
fn fields_are_renamed_dropped_and_masked_and_the_rest_stays() {
    let document =
        fields(&[("user.name", "login"), ("id", "key")], &["user.password"], &["cards.number"]);
    for (body, expected) in [
        (
            r#" {"z":1.50,"id": 12345678901234567890123,"user":{"name":"a","password":"p","x":[1, 2]},"cards":[{"number":"1"},{"number":[2]}]} "#,
            r#"{"z":1.50,"key":12345678901234567890123,"user":{"login":"a","x":[1, 2]},"cards":[{"number":"***"},{"number":"***"}]}"#,
        ),
        // Each spelling of a name is the same name, and a name may occur twice.
        (r#"{"us\u0065r":{"p\u0061ssword":1,"password":2,"y":3}}"#, r#"{"user":{"y":3}}"#),
        (r#"{"user":{"password":1},"user":{"password":2}}"#, r#"{"user":{},"user":{}}"#),
        (r#"{"a":1,"a":2,"b":1e999}"#, r#"{"a":1,"a":2,"b":1e999}"#),
        (r#"[[{"cards":{"number":1}}],7,null]"#, r#"[[{"cards":{"number":"***"}}],7,null]"#),
        (r#"{"user":"text","cards":7}"#, r#"{"user":"text","cards":7}"#),
        // The renamed field wins, wherever it is.
        (r#"{"key":"old","a":1,"id":1,"key":2}"#, r#"{"a":1,"key":1}"#),
        (r#"{"id":1,"key":"old"}"#, r#"{"key":1}"#),
        (r#"{"key":"old"}"#, r#"{"key":"old"}"#),
        (r#"{"user":{"password":1}}"#, r#"{"user":{}}"#),
        ("{}", "{}"),
        ("[ ]", "[]"),
        ("7", "7"),
    ] {
        assert_eq!(applied(&document, body).unwrap(), expected, "{body}");
    }
}

#[test]
fn what_is_not_json_is_not_changed() {
    let document = fields(&[], &[], &["a"]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "{",
        "{\"a\":1}x",
        "{'a':1}",
        "\u{feff}{}",
        "{\"a\":1,}",
        "[1,]",
        "{\"a\"}",
        "[1 2]",
        &deep,
    ] {
        assert_eq!(applied(&document, body), Err(DocumentFault::NotJson), "{:.20}", body);
    }
    assert_eq!(document.apply(b"{\"a\":\"\xff\"}", &facts()), Err(DocumentFault::NotJson));
    let large = format!("[{}]", " ".repeat(1 << 20));
    assert_eq!(applied(&document, &large), Err(DocumentFault::TooLarge));
    // What is not on the way to a field may be nested as deeply as it likes.
    let beside = format!("{{\"b\":{deep},\"a\":1}}");
    let expected = format!("{{\"b\":{deep},\"a\":\"***\"}}");
    assert_eq!(applied(&document, &beside).unwrap(), expected);
}

/// Hostile bodies take time in proportion to their length: each of these is about 1 MB.
#[test]
fn the_time_of_a_mapping_is_linear() {
    let document = fields(&[("id", "key"), ("a.a.a.a.a.a", "b")], &[], &[]);
    let collisions = format!("{{{}\"id\":1}}", "\"key\":1,".repeat(120_000));
    let nested = format!("{}[{}0]{}", "[".repeat(120), "{},".repeat(300_000), "]".repeat(120));
    let begun = std::time::Instant::now();
    assert_eq!(applied(&document, &collisions).unwrap(), r#"{"key":1}"#);
    assert_eq!(applied(&document, &nested).unwrap(), nested);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

#[test]
fn a_template_writes_values_as_json() {
    let source = r#"{"name": {{ body.user.name }}, "all": {{ body }}, "from": {{ method ~ " " ~ host ~ path }}, "status": {{ status }}}"#;
    let document = filled(source);
    let name = r#"\",\"admin\":true,\"x\":\"</script>"#;
    let body = format!(r#"{{"user":{{"name":"{name}"}},"a":null}}"#);
    let result: serde_json::Value =
        serde_json::from_str(&applied(&document, &body).unwrap()).unwrap();
    assert_eq!(result["name"], "\",\"admin\":true,\"x\":\"</script>");
    assert_eq!(result["all"], serde_json::from_str::<serde_json::Value>(&body).unwrap());
    assert_eq!((&result["from"], &result["status"]), (&"GET app.test/x".into(), &200.into()));
    assert!(result.get("admin").is_none());
    // A missing field is a fault, unless the template has a default.
    let Err(DocumentFault::Template(fault)) = applied(&document, "{}") else { panic!() };
    assert!(fault.contains("line 1"), "{fault}");
    assert_eq!(applied(&filled("{{ body.x | default(none) }}"), "{}").unwrap(), "null");
    let broken = filled("{{ body.x }} {{ body.x }}");
    assert!(matches!(applied(&broken, "{\"x\":1}"), Err(DocumentFault::Template(_))));
}

#[test]
fn a_template_keeps_order_and_numbers() {
    let document = filled("{{ body }}");
    let numbers = "[0,-0,1,-7,1.5,1e300,18446744073709551615,12345678901234567890123,\
                   0.12345678901234567890123,1e999,5e-324,-99999999999999999999999999999999999999999]";
    let body = format!(r#"{{"z":{numbers},"a":{{"y":[],"b":{{}}}},"é\n":"\u0001"}}"#);
    assert_eq!(applied(&document, &body).unwrap().replace("1e+300", "1e300"), body);
    assert_eq!(applied(&filled("{{ body.n + 1 }}"), r#"{"n":41}"#).unwrap(), "42");
    assert_eq!(applied(&filled("{{ body.n * 2 }}"), r#"{"n":1.25}"#).unwrap(), "2.5");
}

#[test]
fn a_template_cannot_run_or_write_without_end() {
    let items = format!("[{}]", vec!["1"; 2000].join(","));
    let text = format!("[\"{}\"]", "a".repeat(500_000));
    for (source, body) in [
        (
            "[{% for a in body %}{% for b in body %}{% for c in body %}{{ a }},{% endfor %}{% endfor %}{% endfor %}0]",
            &items,
        ),
        ("[{% for a in body %}{{ body }},{% endfor %}0]", &items),
        ("{{ body[0] * 100 }}", &text),
        ("{{ body[0] | replace('a', body[0]) }}", &text),
        (
            "{% set n = namespace(x=body[0]) %}{% for a in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            &text,
        ),
    ] {
        let Err(DocumentFault::Template(fault)) = applied(&filled(source), body) else {
            panic!("{source}")
        };
        let known = ["fuel", "write", "large"];
        assert!(known.iter().any(|known| fault.contains(known)), "{source}: {fault}");
    }
}

//! Expressions: their meaning, their faults and their bounds.

use super::*;

fn input() -> ExpressionInput {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    ExpressionInput {
        path: "/api/v2/users".to_owned(),
        query: map(&[("beta", "1")]),
        headers: map(&[("x-version", "2.1"), ("user-agent", "curl/8")]),
        cookies: map(&[("group", "b")]),
        certificate: ("CN=client".to_owned(), "ab".to_owned()),
        ..sample()
    }
}

fn result(text: &str) -> Result<bool, ExpressionError> {
    Expression::compile(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}")).evaluate(input())
}

#[test]
fn expressions_read_the_request_and_the_client() {
    for text in [
        "request.method == 'GET' && request.scheme == 'https'",
        "request.headers['x-version'].startsWith('2.') || request.query['beta'] == '0'",
        "'beta' in request.query && !('gamma' in request.query)",
        "has(request.cookies.group) && request.cookies.group == 'b'",
        "request.path.matches('^/api/v[0-9]+/') && !request.path.matches('^/v')",
        "matches(request.path, 'users$')",
        "size(request.path) < 100 && request.path.size() > 2",
        "client.ip == '192.0.2.1' && client.certificate.subject.contains('CN=')",
        "request.method in ['GET', 'HEAD'] && !request.upgrade",
        "int(request.query['beta']) + 1 == 2",
        "(request.upgrade ? 'a' : 'b') == 'b'",
    ] {
        assert_eq!(result(text), Ok(true), "{text}");
    }
    assert_eq!(result("request.host == 'other'"), Ok(false));
}

#[test]
fn what_cannot_be_evaluated_does_not_match() {
    let failed = |text: &str| matches!(result(text), Err(ExpressionError::Failed(_)));
    assert!(failed("request.headers['missing'] == '1'"));
    assert!(failed("int(request.headers['x-version']) == 2"));
    assert!(failed("request.headers[request.path] == ''"));
    // Either side decides alone.
    assert_eq!(result("request.headers['missing'] == '1' || true"), Ok(true));
}

#[test]
fn a_request_with_too_much_text_is_not_evaluated() {
    let expression = Expression::compile("request.path != ''").unwrap();
    let long = ExpressionInput { path: "x".repeat(LONGEST_INPUT), ..input() };
    assert_eq!(expression.evaluate(long), Err(ExpressionError::TooLong));
}

fn fault(text: &str) -> (String, String) {
    let fault = Expression::compile(text).err().unwrap_or_else(|| panic!("{text} is accepted"));
    let at = text.get(fault.at.clone()).unwrap_or_else(|| panic!("{text}: {:?}", fault.at));
    (at.to_owned(), fault.wrong.message)
}

#[test]
fn faults_have_their_place() {
    for (text, at, message) in [
        ("method == 'GET'", "method", "unknown name `method`"),
        ("request.header.a == 'GET'", "header", "`request` has no field `header`"),
        ("request.path.match('x')", "match", "unknown function `match`"),
        ("request.path.matches(request.host)", "", "must be a literal"),
        ("request.path.matches('(')", "'('", "invalid regular expression"),
        ("request.path", "request.path", "must be true or false"),
        ("request.path > 3", "request.path > 3", "the expression fails"),
        ("request.path == ", "", "invalid expression"),
        ("", "", "invalid expression"),
    ] {
        let (place, found) = fault(text);
        assert!(found.contains(message), "{text}: {found}");
        assert!(place.contains(at), "{text}: {place}");
    }
}

#[test]
fn hostile_expressions_are_refused_at_once() {
    let started = std::time::Instant::now();
    for (text, message) in [
        ("[1,2,3].all(a, [1,2,3].all(b, a < b))".to_owned(), "loops"),
        ("request.headers.exists(h, h == 'x')".to_owned(), "loops"),
        (format!("'' == {}", vec!["request.path"; 100].join("+")), "additions"),
        (format!("1 == {}", vec!["1"; 400].join("-")), "parts"),
        (format!("{}true{}", "(".repeat(900), ")".repeat(900)), "expression"),
        (format!("{}1", "a?b:".repeat(500)), "expression"),
        (format!("request{} == 1", ".path".repeat(300)), "expression"),
        (format!("{}true", "!".repeat(2001)) + &" ".repeat(60), "expression of more"),
        (format!("{}1{} == 1", "[".repeat(900), "]".repeat(900)), "expression"),
        (format!("true{}", " && true".repeat(300)), "expression of more"),
        ("request.path.matches('(x{1000}){1000}')".to_owned(), "invalid regular expression"),
    ] {
        let found = Expression::compile(&text).err();
        let found = found.unwrap_or_else(|| panic!("{text} is accepted")).wrong.message;
        assert!(found.contains(message), "{text}: {found}");
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn a_deep_expression_fits_the_stack_of_a_worker() {
    let text = format!("{} == 1", vec!["int(request.query['beta'])"; 40].join("-"));
    assert_eq!(result(&text), Ok(false));
    let text = format!("'' == request.headers{}", ".a".repeat(240));
    assert!(matches!(result(&text), Err(ExpressionError::Failed(_))));
}

#[test]
fn the_largest_expression_is_quick_on_the_largest_request() {
    let part = "request.path.contains(request.headers['x-version'])";
    let text = vec![part; 30].join(" || ");
    let expression = Expression::compile(&text).unwrap();
    let path = "x".repeat(LONGEST_INPUT - 4096);
    let started = std::time::Instant::now();
    assert_eq!(expression.evaluate(ExpressionInput { path, ..input() }), Ok(false));
    assert!(started.elapsed() < std::time::Duration::from_millis(500));
}

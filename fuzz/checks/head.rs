//! Properties of the head parsers that hold for all input.

use std::iter;

use http::Method;
use httparse::Status;
use moorline_http::{
    BodyLength, Buffer, ClientConnection, FieldId, Head, HeadFault, HeadLimits, HttpVersion,
    RequestHead, RequestParser, ResponseHead, ResponseParser,
};

/// Limits that short input reaches.
pub(crate) const LIMITS: HeadLimits = HeadLimits { size: 2048, fields: 20 };

/// All splits into two pieces are checked up to this length, and some for longer input.
const EACH: usize = 150;

/// A head, and the bytes behind it.
#[derive(Debug)]
pub(crate) struct ReadHead<T> {
    pub(crate) head: T,
    pub(crate) rest: Vec<u8>,
}

/// A head, its absence, or the fault.
pub(crate) type HeadResult<T> = Result<Option<ReadHead<T>>, HeadFault>;

/// Panics if a property is violated.
pub(crate) fn check(bytes: &[u8]) {
    check_splits(bytes, request, describe_request);
    check_request(bytes);
    for method in [Method::GET, Method::HEAD] {
        let read = |bytes: &[u8], pieces: &[usize]| response(bytes, &method, pieces);
        check_splits(bytes, read, describe_response);
        check_response(bytes, &method);
    }
}

/// Reads a request that arrives in pieces of the given lengths; the last piece is the rest.
pub(crate) fn request(bytes: &[u8], pieces: &[usize]) -> HeadResult<RequestHead> {
    let mut parser = RequestParser::default();
    read(bytes, pieces, |input| parser.parse(input, LIMITS))
}

/// Reads the response to a request with this method.
pub(crate) fn response(
    bytes: &[u8],
    method: &Method,
    pieces: &[usize],
) -> HeadResult<ResponseHead> {
    let mut parser = ResponseParser::default();
    read(bytes, pieces, |input| parser.parse(input, LIMITS, method))
}

fn read<T>(
    mut bytes: &[u8],
    pieces: &[usize],
    mut parse: impl FnMut(&mut Option<Buffer>) -> Result<Option<T>, HeadFault>,
) -> HeadResult<T> {
    let mut input = None;
    for length in pieces.iter().copied().chain(iter::once(bytes.len())) {
        let (piece, after) = bytes.split_at(length.min(bytes.len()));
        bytes = after;
        if piece.is_empty() {
            continue;
        }
        input.get_or_insert_with(Buffer::new).push(piece);
        if let Some(head) = parse(&mut input)? {
            let rest = input.as_ref().map_or(&[][..], Buffer::filled);
            return Ok(Some(ReadHead { head, rest: [rest, bytes].concat() }));
        }
    }
    Ok(None)
}

/// Asserts that the pieces of the input do not change the result.
fn check_splits<T>(
    bytes: &[u8],
    read: impl Fn(&[u8], &[usize]) -> HeadResult<T>,
    describe: impl Fn(&T) -> String,
) {
    let summary = |pieces: &[usize]| match read(bytes, pieces) {
        Ok(Some(ReadHead { head, rest })) => format!("{} {}", describe(&head), rest.len()),
        Ok(None) => "incomplete".to_owned(),
        Err(fault) => format!("{fault:?}"),
    };
    let whole = summary(&[]);
    for length in [1, 2, 7] {
        let pieces = vec![length; bytes.len() / length];
        assert_eq!(summary(&pieces), whole, "in pieces of {length}");
    }
    let step = (bytes.len() / EACH).max(1);
    for at in (0..bytes.len()).step_by(step) {
        assert_eq!(summary(&[at]), whole, "in two pieces, of {at} bytes and the rest");
    }
}

fn describe_request(request: &RequestHead) -> String {
    let path = (request.path_and_query(), request.path(), request.query(), request.authority());
    let connection = (request.keeps_alive(), request.expects_continue(), request.has_body());
    format!("{request:?} {:?} {path:?} {connection:?}", request.target())
}

fn describe_response(response: &ResponseHead) -> String {
    format!("{response:?} {:?} {:?}", response.closes(), response.keep_alive_timeout())
}

/// Asserts that httparse accepts each request of the parser with equal fields, and that the written head is
/// read as this request.
fn check_request(bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 400];
    let mut oracle = httparse::Request::new(&mut fields);
    let status = oracle.parse(bytes);
    let read = match request(bytes, &[]) {
        Ok(Some(read)) => read,
        other => return check_rejected(other.err(), status),
    };
    let consumed = bytes.len() - read.rest.len();
    assert_eq!(status, Ok(Status::Complete(consumed)));
    let ReadHead { mut head, .. } = read;
    let version = Some(u8::from(head.version == HttpVersion::Http11));
    let line = (oracle.method, oracle.path, oracle.version);
    assert_eq!(line, (Some(head.method.as_str()), Some(head.target()), version));
    let repeated = head.head.all(FieldId::ContentLength).count();
    assert!(repeated <= 1, "Content-Length fields are not merged");
    assert_eq!(fields_of(&head.head, true), oracle_fields(oracle.headers));

    head.strip_hop_by_hop(&[]);
    let mut out = Buffer::new();
    head.write(&mut out, head.length(), None);
    let again = reread(request(out.filled(), &[]), out.filled());
    let Some(again) = again else { return };
    assert_eq!((&again.method, again.version), (&head.method, HttpVersion::Http11));
    assert_eq!(again.length(), head.length());
    let path = head.path_and_query();
    let slash = if path.starts_with('?') { "/" } else { "" };
    assert_eq!(again.target(), format!("{slash}{path}"));
    assert_eq!(fields_of(&again.head, false), fields_of(&head.head, false));
}

/// Asserts these properties for a response.
fn check_response(bytes: &[u8], method: &Method) {
    let mut fields = [httparse::EMPTY_HEADER; 400];
    let mut oracle = httparse::Response::new(&mut fields);
    let status = oracle.parse(bytes);
    let read = match response(bytes, method, &[]) {
        Ok(Some(read)) => read,
        other => return check_rejected(other.err(), status),
    };
    let consumed = bytes.len() - read.rest.len();
    assert_eq!(status, Ok(Status::Complete(consumed)));
    let ReadHead { mut head, .. } = read;
    assert_eq!(oracle.code, Some(head.status.as_u16()));
    assert_eq!(fields_of(&head.head, false), without_length(oracle_fields(oracle.headers)));

    head.strip_hop_by_hop();
    let mut out = Buffer::new();
    let client =
        ClientConnection { version: HttpVersion::Http11, closes: head.closes(), upgrade: None };
    head.write(&mut out, head.length(), client);
    let Some(again) = reread(response(out.filled(), method, &[]), out.filled()) else { return };
    assert_eq!(again.status, head.status);
    assert_eq!(again.length(), head.length());
    // An interim response does not say what follows the final one.
    assert!(head.is_interim() || again.closes() == head.closes());
    let mut sent = fields_of(&again.head, false);
    sent.retain(|(name, _)| name != "date" && name != "connection");
    let mut kept = fields_of(&head.head, false);
    kept.retain(|(name, _)| name != "date");
    assert_eq!(sent, kept);
}

/// Asserts that httparse is not stricter than the parser, and more lenient only if the fault allows it.
fn check_rejected(fault: Option<HeadFault>, oracle: httparse::Result<usize>) {
    let accepted = matches!(oracle, Ok(Status::Complete(_)));
    let Some(fault) = fault else {
        assert!(!accepted, "httparse reads a head that the parser finds incomplete");
        return;
    };
    let shared = matches!(
        fault,
        HeadFault::Folded
            | HeadFault::Name
            | HeadFault::NoColon
            | HeadFault::SpaceBeforeColon
            | HeadFault::TargetSpace
            | HeadFault::Tls
            | HeadFault::Value
            | HeadFault::Version
    );
    assert!(!(accepted && shared), "httparse accepts a head with the fault {fault:?}");
}

/// A written head; `None` if the fields that were added exceed a limit.
fn reread<T>(read: HeadResult<T>, written: &[u8]) -> Option<T> {
    match read {
        Ok(Some(ReadHead { head, rest })) => {
            assert!(rest.is_empty(), "bytes behind the written head");
            Some(head)
        }
        Err(HeadFault::TooLarge | HeadFault::TooManyFields | HeadFault::TargetTooLong) => None,
        other => panic!("{:?} for {:?}", other.err(), String::from_utf8_lossy(written)),
    }
}

type Fields = Vec<(String, Vec<u8>)>;

/// Names in lower case, and values. Without `framing`, fields about the length are left out.
fn fields_of(head: &Head, framing: bool) -> Fields {
    let fields = head.fields();
    let fields = fields.map(|field| (String::from_utf8_lossy(field.name), field.value.to_vec()));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    if framing { merged(fields) } else { without_length(fields) }
}

fn oracle_fields(fields: &[httparse::Header<'_>]) -> Fields {
    let fields = fields.iter();
    let fields = fields.map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()));
    merged(fields.collect())
}

/// Identical `Content-Length` fields are merged into one, at the end and in its shortest form.
fn merged(fields: Fields) -> Fields {
    let (lengths, mut others): (Fields, Fields) =
        fields.into_iter().partition(|(name, _)| name == "content-length");
    let first = lengths.into_iter().next();
    others.extend(first.map(|(name, value)| {
        let value = String::from_utf8_lossy(&value).parse::<u64>().map(|length| length.to_string());
        (name, value.unwrap_or_default().into_bytes())
    }));
    others
}

fn without_length(mut fields: Fields) -> Fields {
    fields.retain(|(name, _)| name != "content-length" && name != "transfer-encoding");
    fields
}

/// How a body is framed, for messages of tests.
#[allow(dead_code, reason = "the fuzz target does not use it")]
pub(crate) fn exact_length(length: BodyLength) -> Option<u64> {
    match length {
        BodyLength::Exactly(length) => Some(length),
        BodyLength::Chunked | BodyLength::UntilClose => None,
    }
}

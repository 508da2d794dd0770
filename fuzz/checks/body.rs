//! Properties of the body decoder that hold for all input.

use std::iter;

use moorline_http::{BodyDecoder, BodyFault, BodyLength, ChunkedOutput};

/// All splits into two pieces are checked up to this length, and some for longer input.
const EACH: usize = 200;

/// What a receiver gets of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadBody {
    /// Bytes that are passed on; empty after a fault.
    pub(crate) output: Vec<u8>,
    /// Data, without framing.
    pub(crate) data: Vec<u8>,
    /// Number of input bytes that belong to the body; 0 after a fault.
    pub(crate) consumed: usize,
    /// Trailers that are passed on, or the fault.
    pub(crate) trailers: Result<Vec<u8>, BodyFault>,
}

/// Panics if a property is violated.
pub(crate) fn check(bytes: &[u8]) {
    let framed = decode(bytes, ChunkedOutput::Framed, [bytes.len()]);
    let decoded = decode(bytes, ChunkedOutput::Decoded, [bytes.len()]);
    assert_eq!(framed.data, decoded.data);
    assert_eq!((framed.consumed, &framed.trailers), (decoded.consumed, &decoded.trailers));
    check_splits(bytes, ChunkedOutput::Framed, &framed);
    check_splits(bytes, ChunkedOutput::Decoded, &decoded);
    check_rules(bytes, &framed);
    if framed.trailers.is_ok() {
        assert_eq!(decoded.output, decoded.data);
        assert!(framed.output.len() <= framed.consumed, "more output than input");
        check_output(&framed);
        check_end(bytes, &framed);
    }
}

/// Decodes a chunked body in pieces of the given lengths; the last piece is the rest.
pub(crate) fn decode(
    bytes: &[u8],
    output: ChunkedOutput,
    pieces: impl IntoIterator<Item = usize>,
) -> ReadBody {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, output);
    let (mut read, mut rest) =
        (ReadBody { output: vec![], data: vec![], consumed: 0, trailers: Ok(vec![]) }, bytes);
    for length in pieces.into_iter().chain(iter::once(usize::MAX)) {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        let mut piece = piece.to_vec();
        let decoded = match decoder.decode(&mut piece, |run| read.data.extend_from_slice(run)) {
            Ok(decoded) => decoded,
            Err(fault) => return read.failed(fault, &mut decoder),
        };
        assert!(decoded.kept <= decoded.consumed && decoded.consumed <= piece.len());
        assert!(decoded.ended || decoded.consumed == piece.len(), "input that is not read");
        assert!(decoded.ended || decoded.tail.is_empty(), "a tail before the end");
        read.consumed += decoded.consumed;
        read.output.extend_from_slice(&piece[..decoded.kept]);
        read.output.extend_from_slice(decoded.tail);
        assert_eq!(decoded.ended, decoder.is_ended());
    }
    match decoder.end() {
        Ok(()) => ReadBody { trailers: Ok(decoder.trailers().to_vec()), ..read },
        Err(fault) => read.failed(fault, &mut decoder),
    }
}

impl ReadBody {
    /// After a fault, the output depends on the pieces, because the last piece is dropped.
    fn failed(self, fault: BodyFault, decoder: &mut BodyDecoder) -> Self {
        assert_eq!(decoder.decode(&mut [b'0'], |_| panic!("data after a fault")), Err(fault));
        assert_eq!(decoder.end(), Err(fault));
        assert!(!decoder.is_ended() && decoder.trailers().is_empty());
        Self { output: vec![], consumed: 0, trailers: Err(fault), ..self }
    }
}

/// Asserts that the pieces of the input do not change the result.
fn check_splits(bytes: &[u8], output: ChunkedOutput, whole: &ReadBody) {
    for length in [1, 2, 3, 7, 64] {
        let pieces = iter::repeat_n(length, bytes.len() / length);
        assert_eq!(&decode(bytes, output, pieces), whole, "in pieces of {length}");
    }
    let step = (bytes.len() / EACH).max(1);
    for at in (0..bytes.len()).step_by(step) {
        assert_eq!(
            &decode(bytes, output, [at]),
            whole,
            "in two pieces, of {at} bytes and the rest"
        );
    }
}

/// Asserts that a second decoder reads the same from the output, and has nothing to cut out.
fn check_output(first: &ReadBody) {
    let second = decode(&first.output, ChunkedOutput::Framed, []);
    assert_eq!(second, ReadBody { consumed: first.output.len(), ..first.clone() });
}

/// Asserts that the end of the body is independent of what follows, and that the last byte is needed.
fn check_end(bytes: &[u8], whole: &ReadBody) {
    let own = &bytes[..whole.consumed];
    for next in [&b""[..], b"0", b"\r\n", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 70]] {
        assert_eq!(&decode(&[own, next].concat(), ChunkedOutput::Framed, []), whole);
    }
    let short = decode(&own[..own.len() - 1], ChunkedOutput::Framed, []);
    assert_eq!(short.trailers, Err(BodyFault::Incomplete));
}

/// Asserts that the decoder accepts exactly what the rules accept, and reads the same data.
fn check_rules(bytes: &[u8], whole: &ReadBody) {
    let Some(expected) = read_by_rules(bytes) else {
        assert!(whole.trailers.is_err(), "a body that violates the rules is accepted");
        return;
    };
    let trailers = whole.trailers.as_ref().expect("a body that follows the rules");
    assert_eq!((&whole.data, whole.consumed), (&expected.data, expected.consumed));
    assert!(whole.output.starts_with(&expected.chunks), "other chunks than those of the input");
    let mut sent = expected.trailers.iter();
    for line in lines(trailers) {
        assert!(sent.any(|other| *other == line), "a trailer that was not sent");
    }
}

/// A body as a reader of the whole input sees it.
struct BodyByRules<'a> {
    /// Size lines without extensions, and data.
    chunks: Vec<u8>,
    data: Vec<u8>,
    trailers: Vec<&'a [u8]>,
    consumed: usize,
}

/// Reads a body line by line, as simply as possible. Returns `None` if it violates a rule or is incomplete.
fn read_by_rules(bytes: &[u8]) -> Option<BodyByRules<'_>> {
    let mut rest = bytes;
    let mut body = BodyByRules { chunks: vec![], data: vec![], trailers: vec![], consumed: 0 };
    let mut extensions = 0;
    loop {
        let line = next_line(&mut rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        let padding = extension.iter().take_while(|byte| b" \t".contains(byte)).count();
        let valid = padding == extension.len() || extension[padding] == b';';
        extensions += extension.len();
        if digits.len() > 16
            || size > 1 << 53
            || !valid
            || !extension.iter().all(is_text)
            || extensions > 16 << 10
        {
            return None;
        }
        body.chunks.extend([digits, b"\r\n"].concat());
        if size == 0 {
            break;
        }
        let (data, after) = rest.split_at_checked(usize::try_from(size).ok()?)?;
        rest = after.strip_prefix(b"\r\n")?;
        body.data.extend(data);
        body.chunks.extend([data, b"\r\n"].concat());
    }
    loop {
        let line = next_line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        let is_token =
            |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
        if name.is_empty() || !name.iter().all(is_token) || !value.iter().all(is_text) {
            return None;
        }
        body.trailers.push(line);
    }
    let size: usize = body.trailers.iter().map(|line| line.len() + 2).sum();
    body.consumed = bytes.len() - rest.len();
    (body.trailers.len() <= 100 && size <= 16 << 10).then_some(body)
}

/// Takes a line that ends with CRLF.
fn next_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\r')?;
    let (line, after) = rest.split_at(end);
    *rest = after.strip_prefix(b"\r\n")?;
    (!line.contains(&b'\n')).then_some(line)
}

fn lines(mut fields: &[u8]) -> Vec<&[u8]> {
    iter::from_fn(|| next_line(&mut fields)).collect()
}

fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || !byte.is_ascii_control()
}

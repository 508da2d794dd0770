//! The rules for chunked bodies, one by one. Property tests are in `tests/it`.

use super::*;

/// Output and trailers of a chunked body that ends with its input.
fn framed(input: impl AsRef<[u8]>) -> Result<String, BodyFault> {
    decoded(BodyDecoder::new(BodyLength::Chunked, ChunkedOutput::Framed), input.as_ref())
}

fn decoded(mut decoder: BodyDecoder, input: &[u8]) -> Result<String, BodyFault> {
    let mut piece = input.to_vec();
    let decoded = decoder.decode(&mut piece, |_| ())?;
    let output = [&piece[..decoded.kept], decoded.tail].concat();
    assert!(!decoded.ended || decoded.consumed == input.len(), "{} bytes left", input.len());
    decoder.end()?;
    Ok(String::from_utf8(output).unwrap())
}

#[test]
fn fault_008_chunk_sizes_are_hex_digits_only() {
    for size in ["0", "00", "0000000000000000"] {
        let body = format!("{size}\r\n\r\n");
        assert_eq!(framed(&body), Ok(body));
    }
    // Old servers pad sizes.
    assert_eq!(framed("1 \t\r\nx\r\n0  \r\n\r\n").as_deref(), Ok("1\r\nx\r\n0\r\n\r\n"));
    assert_eq!(framed("A\r\n0123456789\r\n0\r\n\r\n").map(|body| body.len()), Ok(20));
    for size in
        ["", "+1", "-1", "0x1", "1_0", " 1", "1 2", "g", "1g", "1,", "\u{661}", "1\0", ";a", " ;a"]
    {
        assert_eq!(
            framed(format!("{size}\r\nx\r\n0\r\n\r\n")),
            Err(BodyFault::ChunkSize),
            "{size}"
        );
    }
    for size in [
        "20000000000001",
        "ffffffffffffffff",
        "10000000000000000",
        "10000000000000001",
        "00000000000000001",
    ] {
        assert_eq!(framed(format!("{size}\r\nx")), Err(BodyFault::ChunkTooLarge), "{size}");
    }
    assert_eq!(framed("20000000000000\r\nx"), Err(BodyFault::Incomplete));
}

#[test]
fn fault_009_extensions_are_cut_out_and_bounded() {
    let input = "3;a=1;b=\"\\\" ;\u{e9}\"\r\nabc\r\n4 \t ; c\r\ndefg\r\n0;\t\r\n\r\n";
    assert_eq!(framed(input).as_deref(), Ok("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"));
    for control in ["\0", "\x08", "\x1b", "\x7f"] {
        assert_eq!(framed(format!("1;a{control}\r\n")), Err(BodyFault::ChunkExtension));
        assert_eq!(framed(format!("1;a=\"{control}\"\r\n")), Err(BodyFault::ChunkExtension));
    }
    for line in ["1;a\n", "1;a=\"\n\"\r\n", "1;a\rb\r\n"] {
        assert_eq!(framed(line), Err(BodyFault::LineEnd), "{line:?}");
    }
    let extensions = |length: usize| {
        let half = "x".repeat(length / 2 - 1);
        framed(format!("1;{half}\r\nx\r\n0;{half}\r\n\r\n")).map(|body| body.len())
    };
    assert_eq!(extensions(16 << 10), Ok("1\r\nx\r\n0\r\n\r\n".len()));
    assert_eq!(extensions((16 << 10) + 2), Err(BodyFault::ExtensionsTooLarge));
}

#[test]
fn fault_010_lines_end_with_crlf() {
    for input in
        ["1\nx\r\n0\r\n\r\n", "1\rx", "0\r\n\n", "0\r\n\r\r", "0\r\na:b\n", "0\r\na:b\rc\r\n"]
    {
        assert_eq!(framed(input), Err(BodyFault::LineEnd), "{input:?}");
    }
    for input in
        ["1\r\nx\n0\r\n\r\n", "1\r\nx0\r\n\r\n", "1\r\nxy\r\n0\r\n\r\n", "1\r\nx\r0\r\n\r\n"]
    {
        assert_eq!(framed(input), Err(BodyFault::ChunkEnd), "{input:?}");
    }
}

#[test]
fn fault_021_a_short_body_is_incomplete() {
    let whole = b"2;a\r\nxy\r\n0\r\na: b\r\n\r\n";
    for end in 0..whole.len() {
        assert_eq!(framed(&whole[..end]), Err(BodyFault::Incomplete), "{end}");
    }
    let exactly = |length| BodyDecoder::new(BodyLength::Exactly(length), ChunkedOutput::Framed);
    assert_eq!(decoded(exactly(3), b"ab"), Err(BodyFault::Incomplete));
    assert_eq!(decoded(exactly(2), b"ab").as_deref(), Ok("ab"));
    assert!(exactly(0).is_ended());
}

#[test]
fn fault_026_forbidden_trailers_are_dropped() {
    let forbidden = "Content-Length: 5\r\nTRANSFER-ENCODING: chunked\r\nhost: a\r\nauthorization: b\r\n\
        Cookie: c\r\nX-Forwarded-Anything: d\r\nx_real_ip: e\r\nSet_Cookie: f\r\nTrailer: g\r\n";
    let passed =
        "grpc-status: 0\r\nGrpc-Message:\r\nETag:\t\"x\" \r\nx-forwarded: 1\r\nage2: 1\r\n";
    let input = format!("1\r\nx\r\n0\r\n{forbidden}{passed}{forbidden}\r\n");
    assert_eq!(framed(input), Ok(format!("1\r\nx\r\n0\r\n{passed}\r\n")));
    assert_eq!(framed(format!("0\r\n{forbidden}\r\n")).as_deref(), Ok("0\r\n\r\n"));
}

#[test]
fn the_caller_can_forbid_further_trailers() {
    let decoder = BodyDecoder::new(BodyLength::Chunked, ChunkedOutput::Framed)
        .dropping_trailers(|name| name.starts_with(b"x-own-"));
    let input = b"0\r\nX_Own-Hops: 1\r\nx-own: 2\r\nHost: a\r\n\r\n";
    assert_eq!(decoded(decoder, input).as_deref(), Ok("0\r\nx-own: 2\r\n\r\n"));
}

#[test]
fn trailers_are_valid_fields() {
    let fields = [
        ": a",
        " a: b",
        "a : b",
        "a b: c",
        "a",
        "a\u{e9}: b",
        "(a): b",
        "a: b\r\n c",
        "a:\0",
        "a: \x7f",
    ];
    for field in fields {
        assert_eq!(framed(format!("0\r\n{field}\r\n\r\n")), Err(BodyFault::Trailer), "{field:?}");
    }
}

#[test]
fn trailers_are_bounded_even_if_they_are_dropped() {
    let many = |field: &str, count| {
        framed(format!("0\r\n{}\r\n", field.repeat(count))).map(|body| body.len())
    };
    assert_eq!(many("a: b\r\n", 100), Ok(605));
    assert_eq!(many("a: b\r\n", 101), Err(BodyFault::TrailersTooLarge));
    assert_eq!(many("te: b\r\n", 101), Err(BodyFault::TrailersTooLarge));
    let line = format!("te:{}\r\n", "x".repeat(1024 - 5));
    assert_eq!(many(&line, 16), Ok(5));
    assert_eq!(many(&line, 17), Err(BodyFault::TrailersTooLarge));
    let endless = "a".repeat(20 << 10);
    assert_eq!(framed(format!("0\r\n{endless}")), Err(BodyFault::TrailersTooLarge));
}

#[test]
fn a_receiver_of_data_gets_no_framing_and_can_ask_for_trailers() {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, ChunkedOutput::Decoded);
    let mut piece = *b"3\r\nabc\r\n2;x\r\nde\r\n0\r\na: b\r\nte: c\r\n\r\nGET";
    let mut data = Vec::new();
    let decoded = decoder.decode(&mut piece, |run| data.extend_from_slice(run)).unwrap();
    let expected = Decoded { kept: 5, consumed: 35, ended: true, tail: &[] };
    assert_eq!(decoded, expected);
    assert!(piece.starts_with(b"abcde") && data == b"abcde");
    assert_eq!(decoder.trailers(), b"a: b\r\n");
}

#[test]
fn nothing_belongs_to_a_body_after_its_end() {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, ChunkedOutput::Framed);
    let mut piece = *b"0\r\na: b\r\n\r\n0\r\n\r\n";
    let decoded = decoder.decode(&mut piece, |_| ()).unwrap();
    let expected = Decoded { kept: 3, consumed: 11, ended: true, tail: b"a: b\r\n\r\n" };
    assert_eq!(decoded, expected);
    let after = Decoded { kept: 0, consumed: 0, ended: true, tail: &[] };
    assert_eq!(decoder.decode(&mut piece[11..], |_| panic!("data")), Ok(after));
    assert_eq!(decoder.end(), Ok(()));
}

#[test]
fn a_body_until_close_ends_with_its_input() {
    let mut decoder = BodyDecoder::new(BodyLength::UntilClose, ChunkedOutput::Framed);
    let decoded = decoder.decode(&mut [b'0', b'\r'], |_| ()).unwrap();
    assert_eq!(decoded, Decoded { kept: 2, consumed: 2, ended: false, tail: &[] });
    assert_eq!((decoder.is_ended(), decoder.end(), decoder.is_ended()), (false, Ok(()), true));
}

#[test]
fn a_decoder_is_small() {
    let size = size_of::<BodyDecoder>();
    assert!(size <= 48, "{size} bytes");
}

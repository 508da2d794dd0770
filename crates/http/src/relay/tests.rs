use std::future::poll_fn;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;

/// Relays `input` in pieces of each size, and returns what the receiver got and what follows the body.
async fn relayed(
    length: BodyLength,
    form: BodyForm,
    input: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), BodyFault> {
    let mut all = Vec::new();
    for size in [1, 2, 3, 7, input.len().max(1)] {
        all.push(relayed_by(length, form, input, size).await);
    }
    assert!(all.iter().all(|result| *result == all[0]), "{all:?}");
    all.remove(0)
}

async fn relayed_by(
    length: BodyLength,
    form: BodyForm,
    input: &[u8],
    size: usize,
) -> Result<(Vec<u8>, Vec<u8>), BodyFault> {
    let (mut sender, mut reader) = duplex(size);
    let (mut writer, mut receiver) = duplex(5);
    let mut relay = BodyRelay::new(length, form, Some(Buffer::of(b"head|")));
    let mut rest = None;
    let relaying = async {
        let result =
            poll_fn(|cx| relay.poll(cx, &mut reader, &mut writer, &mut rest, |_| ())).await;
        drop(writer);
        drop(reader);
        result
    };
    let mut got = Vec::new();
    let (result, sent, read) = tokio::join!(
        relaying,
        async move {
            let sent = sender.write_all(input).await;
            drop(sender);
            sent
        },
        receiver.read_to_end(&mut got)
    );
    read.unwrap();
    // The relay stops to read behind the body.
    let _ = sent;
    match result {
        Ok(()) => {
            let rest = rest.map(|rest| rest.filled().to_vec()).unwrap_or_default();
            let text = got.strip_prefix(b"head|").unwrap().to_vec();
            Ok(if form == BodyForm::Chunked { (decoded(&text), rest) } else { (text, rest) })
        }
        Err(RelayError::Fault(fault)) => Err(fault),
        Err(error) => panic!("{error}"),
    }
}

/// The data of a chunked body.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, ChunkedOutput::Decoded);
    let mut bytes = bytes.to_vec();
    let end = decoder.decode(&mut bytes, |_| ()).unwrap();
    assert!(end.ended && end.consumed == bytes.len());
    let kept = end.kept;
    bytes.truncate(kept);
    bytes
}

#[tokio::test]
async fn bodies_arrive_in_each_form() {
    let text = |text: &str| text.as_bytes().to_vec();
    let exactly = relayed(BodyLength::Exactly(5), BodyForm::Unchanged, b"hello").await;
    assert_eq!(exactly, Ok((text("hello"), text(""))));
    let empty = relayed(BodyLength::Exactly(0), BodyForm::Unchanged, b"").await;
    assert_eq!(empty, Ok((text(""), text(""))));
    let until_close = relayed(BodyLength::UntilClose, BodyForm::Unchanged, b"hello").await;
    assert_eq!(until_close, Ok((text("hello"), text(""))));
    let chunks = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nGrpc-Status: 0\r\nHost: a\r\n\r\n";
    let unchanged = relayed(BodyLength::Chunked, BodyForm::Unchanged, chunks).await;
    let kept = "5\r\nhello\r\n1\r\n!\r\n0\r\nGrpc-Status: 0\r\n\r\n";
    assert_eq!(unchanged, Ok((text(kept), text(""))));
    let decoded = relayed(BodyLength::Chunked, BodyForm::Decoded, chunks).await;
    assert_eq!(decoded, Ok((text("hello!"), text(""))));
    for body in [&b"hello, world"[..], b""] {
        let encoded = relayed(BodyLength::UntilClose, BodyForm::Chunked, body).await;
        assert_eq!(encoded, Ok((body.to_vec(), text(""))));
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_a_fault() {
    let short = relayed(BodyLength::Exactly(6), BodyForm::Unchanged, b"hello").await;
    assert_eq!(short, Err(BodyFault::Incomplete));
    let short = relayed(BodyLength::Chunked, BodyForm::Unchanged, b"5\r\nhel").await;
    assert_eq!(short, Err(BodyFault::Incomplete));
}

#[tokio::test]
async fn bytes_read_with_the_head_leave_with_it_and_the_next_message_stays() {
    let mut input = Some(Buffer::of(b"helloGET /"));
    let mut relay =
        BodyRelay::new(BodyLength::Exactly(5), BodyForm::Unchanged, Some(Buffer::of(b"head|")));
    let mut seen = Vec::new();
    relay.feed(&mut input, |run| seen.extend_from_slice(run)).unwrap();
    assert_eq!(input.as_ref().unwrap().filled(), b"GET /");
    assert_eq!((seen.as_slice(), relay.bytes(), relay.has_read_all()), (&b"hello"[..], 5, true));
    let (mut writer, mut receiver) = duplex(64);
    poll_fn(|cx| relay.poll_write(cx, &mut writer)).await.unwrap();
    let mut got = [0; 64];
    let count = receiver.read(&mut got).await.unwrap();
    assert_eq!(&got[..count], b"head|hello");
    assert!(!relay.is_blocked());
}

#[test]
fn a_chunk_has_a_size_line() {
    assert_eq!(&format_size(0x1f), b"0000001f\r\n");
    assert_eq!(chunk(Buffer::of(b"abc")).filled(), b"00000003\r\nabc\r\n");
}

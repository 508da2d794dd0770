use std::{pin::pin, task::Poll};

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio_websockets::{CloseCode, Config, Message as Theirs, ServerBuilder, WebSocketStream};

use super::*;
use crate::net::{
    CloseFrame, Kind,
    frame::{self, Header, Opcode},
};

/// A server from tokio-websockets that sends frames of at most `frame` bytes.
async fn reference_server<F: Future<Output = ()> + Send + 'static>(
    frame: usize,
    serve: impl Fn(WebSocketStream<TcpStream>) -> F + Clone + Send + 'static,
) -> SocketAddr {
    server(move |tcp| {
        let serve = serve.clone();
        async move {
            let config = Config::default().frame_size(frame);
            let (_, socket) = ServerBuilder::new().config(config).accept(tcp).await.unwrap();
            serve(socket).await;
        }
    })
    .await
}

async fn echo(mut socket: WebSocketStream<TcpStream>) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
}

/// A frame as servers send it.
fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { fin, opcode, mask: None, len: payload.len() as u64 }.write(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// Sends these frames to a client; returns its messages and how its connection ended.
async fn receive_all(frames: Vec<u8>, piece: usize) -> (Vec<Message>, Failure) {
    let mut socket = websocket(says(frames, piece).await).await.unwrap();
    let mut received = Vec::new();
    loop {
        match socket.next().await {
            Ok(message) => received.push(message),
            Err(failure) => return (received, failure),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// In both directions, through another library.
    #[test]
    fn messages_round_trip_through_tokio_websockets(
        sizes in prop::collection::vec(
            prop_oneof![0..300_usize, Just(65_535), Just(65_536), 0..300_000_usize], 1..12),
        part in prop_oneof![1..200_usize, Just(usize::MAX)],
        binary: bool,
    ) {
        // Thousands of tiny frames would take long and test nothing more.
        let part = part.max(sizes.iter().max().unwrap() / 500);
        runtime().block_on(async {
            let mut socket = websocket(reference_server(part, echo).await).await.unwrap();
            for (number, size) in sizes.iter().enumerate() {
                let payload: Vec<u8> = (0..*size).map(|i| (i * 7 + number) as u8 & 0x7f).collect();
                let kind = if binary { Kind::Binary } else { Kind::Text };
                socket.send(kind, &payload).await.unwrap();
                let echo = match socket.next().await.unwrap() {
                    Message::Text(text) if !binary => text.into_bytes(),
                    Message::Binary(bytes) if binary => bytes,
                    other => panic!("{other:?}"),
                };
                assert!(echo == payload, "message {number} of {size} bytes");
            }
            assert_eq!(socket.backlog(), 0);
        });
    }

    /// With any split into packets.
    #[test]
    fn frames_are_parsed_in_any_pieces(piece in 1..40_usize, cut in 0..20_usize) {
        let long = "x".repeat(300);
        let (start, end) = long.split_at(cut);
        let frames = [
            frame(true, Opcode::Text, "größe".as_bytes()),
            frame(false, Opcode::Text, start.as_bytes()),
            frame(true, Opcode::Ping, b"between"),
            frame(false, Opcode::Continuation, b""),
            frame(true, Opcode::Continuation, end.as_bytes()),
            frame(true, Opcode::Pong, b""),
            frame(true, Opcode::Binary, &[0, 255]),
            frame(true, Opcode::Close, b"\x03\xe9bye"),
        ];
        let (received, failure) = runtime().block_on(receive_all(frames.concat(), piece));
        let close_frame = CloseFrame { code: Some(1001), reason: "bye".into() };
        let expected =
            [text("größe"), text(&long), Message::Binary(vec![0, 255]), Message::Close(close_frame)];
        prop_assert_eq!(received, expected);
        prop_assert_eq!(failure.kind, ErrorKind::Disconnect);
    }

    #[test]
    fn masks_are_applied_in_pieces(payload: Vec<u8>, key: [u8; 4], cut: prop::sample::Index) {
        let expected: Vec<u8> =
            payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let mut masked = payload;
        let cut = cut.index(masked.len() + 1);
        let (start, end) = masked.split_at_mut(cut);
        frame::apply_mask(start, key, 0);
        frame::apply_mask(end, key, cut as u64);
        prop_assert_eq!(masked, expected);
    }

    #[test]
    fn headers_round_trip(fin: bool, len in 0..u64::MAX >> 1, mask: Option<[u8; 4]>) {
        for len in [len, len & 0xffff, len & 0x7f] {
            let header = Header { fin, opcode: Opcode::Binary, mask, len };
            let mut bytes = Vec::new();
            header.write(&mut bytes);
            for end in 0..bytes.len() {
                prop_assert_eq!(Header::parse(&bytes[..end]), Ok(None));
            }
            prop_assert_eq!(Header::parse(&bytes), Ok(Some((header, bytes.len()))));
        }
    }

    #[test]
    fn client_does_not_panic_on_any_bytes(frames: Vec<u8>) {
        let (_, failure) = runtime().block_on(receive_all(frames, 64));
        prop_assert!(matches!(failure.kind, ErrorKind::Protocol | ErrorKind::Disconnect));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn malformed_frames_end_the_connection() {
    let masked = {
        let mut bytes = Vec::new();
        Header { fin: true, opcode: Opcode::Text, mask: Some([1; 4]), len: 0 }.write(&mut bytes);
        bytes
    };
    for (bytes, description) in [
        (masked, "masking"),
        (vec![0xc1, 0], "reserved bit"),
        (vec![0x83, 0], "unknown opcode 3"),
        (vec![0x09, 0], "control frame"),
        (vec![0x89, 126, 0, 126], "control frame"),
        (vec![0x82, 126, 0, 125], "malformed length"),
        (vec![0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], "malformed length"),
        (vec![0x82, 127, 0xff, 0, 0, 0, 0, 1, 0, 0], "malformed length"),
        (vec![0x82, 127, 0, 0, 0, 0xff, 0, 0, 0, 0], "more than"),
        (vec![0x80, 0], "out of order"),
        (
            [frame(false, Opcode::Text, b"a"), frame(true, Opcode::Text, b"b")].concat(),
            "out of order",
        ),
        (vec![0x81, 1, 0xff], "not UTF-8"),
        (vec![0x88, 1, 3], "malformed code"),
        (vec![0x88, 2, 3, 0xed], "malformed code"),
    ] {
        let (received, failure) = receive_all(bytes.clone(), usize::MAX).await;
        assert_eq!((received, failure.kind), (vec![], ErrorKind::Protocol), "{bytes:x?}");
        assert!(failure.detail.contains(description), "{failure} for {bytes:x?}");
    }
}

#[tokio::test]
async fn pings_and_closes_are_answered() {
    let address = reference_server(usize::MAX, |mut socket| async move {
        socket.send(Theirs::ping("are you there")).await.unwrap();
        let pong = socket.next().await.unwrap().unwrap();
        assert!(pong.is_pong());
        socket.send(Theirs::text("thanks")).await.unwrap();
        socket.send(Theirs::close(Some(CloseCode::GOING_AWAY), "restart")).await.unwrap();
        let close = socket.next().await.unwrap().unwrap();
        assert_eq!(close.as_close().unwrap().0, CloseCode::GOING_AWAY);
    })
    .await;
    let mut socket = websocket(address).await.unwrap();
    assert_eq!(socket.next().await.unwrap(), text("thanks"));
    let Message::Close(close_frame) = socket.next().await.unwrap() else { panic!("no close") };
    let failure = Failure::from(close_frame);
    assert_eq!(failure.kind, ErrorKind::Disconnect);
    assert_eq!(failure.detail, "the server closed the WebSocket with code 1001 (restart)");
}

#[tokio::test]
async fn close_waits_for_the_close_of_the_server() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let address = reference_server(usize::MAX, move |mut socket| {
        let sender = sender.clone();
        async move {
            // Sends a message after the client's close.
            socket.send(Theirs::text("hello")).await.unwrap();
            let close = socket.next().await.unwrap().unwrap();
            assert!(socket.next().await.is_none());
            sender.send(close.as_close().unwrap().0).unwrap();
        }
    })
    .await;
    websocket(address).await.unwrap().close().await;
    assert_eq!(receiver.recv().await, Some(CloseCode::NORMAL_CLOSURE));
}

#[tokio::test]
async fn message_larger_than_all_buffers_does_not_block() {
    let mut socket = websocket(reference_server(usize::MAX, echo).await).await.unwrap();
    let payload: Vec<u8> = (0..48 << 20).map(|i: u32| (i % 251) as u8).collect();
    socket.send(Kind::Binary, &payload).await.unwrap();
    assert!(socket.backlog() > 0, "more than the buffers can take");
    let Message::Binary(echo) = socket.next().await.unwrap() else { panic!("no bytes") };
    assert!(echo == payload);
}

#[tokio::test]
async fn next_is_cancel_safe() {
    let frames = [frame(true, Opcode::Text, b"one"), frame(true, Opcode::Text, b"two")].concat();
    let mut socket = websocket(says(frames, 1).await).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 2 {
        let mut next = pin!(socket.next());
        let polled = std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        match polled {
            Poll::Ready(message) => received.push(message.unwrap()),
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    assert_eq!(received, [text("one"), text("two")]);
}

#[tokio::test]
async fn download_is_counted_and_discarded() {
    let frames = [
        frame(true, Opcode::Binary, &[0; 70_000]),
        frame(true, Opcode::Ping, b"?"),
        frame(false, Opcode::Text, b"123"),
        frame(true, Opcode::Continuation, b""),
        frame(true, Opcode::Close, b"\x03\xe8"),
    ]
    .concat();
    for piece in [1 << 20, 1000, 3] {
        let mut socket = websocket(says(frames.clone(), piece).await).await.unwrap();
        let mut counted = 0;
        let close_frame = loop {
            match socket.discard_payload().await.unwrap() {
                Ok(bytes) => counted += bytes,
                Err(close_frame) => break close_frame,
            }
        };
        assert_eq!((counted, close_frame.code), (70_003, Some(1000)));
    }
}

use proptest::prelude::*;

use super::*;

fn sized(most: u64) -> MessageState {
    let patience = Duration::from_secs(10);
    MessageState::new(MessageLimits { max_size: Some(most), rate: None, patience })
}

/// A masked frame of a client; the payload looks like headers.
fn frame(opcode: u8, last: bool, payload: usize) -> Vec<u8> {
    let mut made = vec![opcode | if last { 0x80 } else { 0 }];
    match payload {
        0..=125 => made.push(0x80 | payload as u8),
        126..=0xffff => {
            made.push(0x80 | 126);
            made.extend((payload as u16).to_be_bytes());
        }
        _ => {
            made.push(0x80 | 127);
            made.extend((payload as u64).to_be_bytes());
        }
    }
    made.extend(std::iter::repeat_n(0x88, payload + 4));
    made
}

/// Feeds pieces as a stream does, and returns what passes and the reason of a refusal.
fn feed(state: &mut MessageState, bytes: &[u8], cut: usize) -> (Vec<u8>, Option<CloseReason>) {
    let (mut passed, mut held) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        held.extend_from_slice(piece);
        let (passes, stop) = state.scan(&held);
        passed.extend(held.drain(..passes));
        match stop {
            Some(Stop::Refused(reason)) => return (passed, Some(reason)),
            Some(Stop::Until(_)) => return (passed, Some(CloseReason::MessageRate)),
            None | Some(Stop::Incomplete) => {}
        }
    }
    (passed, None)
}

proptest! {
    /// Whatever the pieces, the same bytes pass: all frames before the first one beyond the limit.
    #[test]
    fn the_same_frames_pass_for_any_split(
        sizes in prop::collection::vec((0..3000_usize, any::<bool>()), 1..8),
        cut in 1..4000_usize,
    ) {
        let (mut stream, mut expected, mut refused) = (Vec::new(), 0, None);
        let (mut size, mut fragmented) = (0, false);
        for (payload, last) in sizes {
            let frame = frame(if fragmented { 0x0 } else { 0x1 }, last, payload);
            size = if fragmented { size + payload } else { payload };
            fragmented = !last;
            stream.extend(&frame);
            if refused.is_none() && size > 2000 {
                refused = Some(CloseReason::MessageTooLarge);
            }
            if refused.is_none() {
                expected += frame.len();
            }
        }
        let (passed, reason) = feed(&mut sized(2000), &stream, cut);
        prop_assert_eq!((&passed[..], reason), (&stream[..expected], refused));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500), cut in 1..50_usize) {
        feed(&mut sized(100), &bytes, cut);
    }
}

#[test]
fn fragments_count_together_and_control_frames_between_them_do_not() {
    let stream = [frame(0x1, false, 60), frame(0x9, true, 100), frame(0x0, false, 40)].concat();
    assert_eq!(feed(&mut sized(100), &stream, 7), (stream.clone(), None));
    let more = [stream.clone(), frame(0x0, true, 1)].concat();
    assert_eq!(feed(&mut sized(100), &more, 7), (stream, Some(CloseReason::MessageTooLarge)));
    let whole = frame(0x1, true, 100).repeat(5);
    assert_eq!(feed(&mut sized(100), &whole, 1000), (whole.clone(), None));
}

#[test]
fn no_length_is_a_way_around_the_limit() {
    for lie in [
        // 101 bytes as a 16-bit and as a 64-bit length, and almost 2^63 bytes.
        vec![0x81, 0xfe, 0, 101, 0, 0, 0, 0],
        vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 101, 0, 0, 0, 0],
        vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
    ] {
        let refused = (Vec::new(), Some(CloseReason::MessageTooLarge));
        assert_eq!(feed(&mut sized(100), &lie, 1), refused, "{lie:?}");
    }
    // Sums do not wrap.
    let huge = [&[0x02, 0x81, 0, 0, 0, 0, 1][..], &[0x80, 0xff, 0x7f][..], &[0xff; 7], &[0; 4]];
    let (_, reason) = feed(&mut sized(u64::MAX - 1), &huge.concat(), 3);
    assert_eq!(reason, None);
}

#[test]
fn frames_that_peers_could_read_in_different_ways_are_refused() {
    for (what, bytes) in [
        ("not masked", vec![0x81, 0x01, b'x']),
        ("a reserved opcode", frame(0x3, true, 1)),
        ("a ping in fragments", frame(0x9, false, 1)),
        ("a negative length", [&[0x82, 0xff, 0xff][..], &[0; 11]].concat()),
        ("a continuation of nothing", frame(0x0, true, 1)),
    ] {
        let (passed, reason) = feed(&mut sized(100), &bytes, 100);
        assert_eq!((passed.len(), reason), (0, Some(CloseReason::InvalidFrame)), "{what}");
    }
    let nested = [frame(0x1, false, 1), frame(0x2, true, 1)].concat();
    let (passed, reason) = feed(&mut sized(100), &nested, 100);
    assert_eq!((passed, reason), (frame(0x1, false, 1), Some(CloseReason::InvalidFrame)));
}

#[test]
fn messages_count_for_the_rate_and_other_frames_count_apart() {
    let rated = |burst| {
        let rate = Some((Duration::from_secs(3600), burst));
        let patience = Duration::from_secs(10);
        MessageState::new(MessageLimits { max_size: None, rate, patience })
    };
    let small = |count| [frame(0x1, false, 0), frame(0x0, false, 0).repeat(count)].concat();
    for (what, burst, frames, passes) in [
        ("messages", 3, frame(0x1, true, 5).repeat(4), 3),
        ("pings", 20, frame(0x9, true, 0).repeat(21), 20),
        ("pings of few messages", 1, frame(0x9, true, 0).repeat(11), 10),
        ("fragments", 1, small(11), 11),
    ] {
        let count = frames.len() / (passes + 1);
        let (passed, reason) = feed(&mut rated(burst), &frames, 1000);
        let expected = (count * passes, Some(CloseReason::MessageRate));
        assert_eq!((passed.len(), reason), expected, "{what}");
    }
    for (what, frames) in [
        ("large fragments", [frame(0x1, false, 2000), frame(0x0, false, 2000).repeat(90)].concat()),
        ("a Close", [frame(0x1, true, 5).repeat(3), frame(0x8, true, 2)].concat()),
        ("a pong", [frame(0x1, true, 5).repeat(3), frame(0xa, true, 2)].concat()),
    ] {
        assert_eq!(feed(&mut rated(3), &frames, 1000).1, None, "{what}");
    }
}

//! The body decoder gives the same result for any pieces of the input, and reads what the rules say.

use moorline_http::{BodyDecoder, BodyFault, BodyLength, ChunkedOutput};
use proptest::{collection::vec, prelude::*};

use crate::{
    body_checks::{check, decode},
    generators::{damaged_bodies, syntax, valid_bodies},
};

proptest! {
    #[test]
    fn valid_bodies_are_decoded_in_any_pieces(
        body in valid_bodies(),
        next in vec(any::<u8>(), 0..20),
        pieces in vec(0..50_usize, 0..20),
    ) {
        let bytes = [&body.bytes[..], &next].concat();
        let read = decode(&bytes, ChunkedOutput::Decoded, pieces);
        prop_assert!(read.trailers.is_ok());
        prop_assert_eq!(read.consumed, body.bytes.len());
        prop_assert_eq!(&read.data, &body.data);
        check(&bytes);
    }

    #[test]
    fn damaged_bodies_get_the_same_fault_in_any_pieces(bytes in damaged_bodies()) {
        check(&bytes);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop_oneof![syntax(), vec(any::<u8>(), 0..60)]) {
        check(&bytes);
    }

    #[test]
    fn a_length_is_counted_down_in_any_pieces(
        length in 0..200_u64,
        input in vec(any::<u8>(), 0..300),
        size in 1..50_usize,
    ) {
        let mut decoder = BodyDecoder::new(BodyLength::Exactly(length), ChunkedOutput::Framed);
        let (mut data, mut kept) = (Vec::new(), 0);
        for piece in input.chunks(size) {
            let mut piece = piece.to_vec();
            let decoded = decoder.decode(&mut piece, |run| data.extend_from_slice(run)).unwrap();
            prop_assert_eq!(decoded.kept, decoded.consumed);
            kept += decoded.kept;
        }
        let whole = input.len() as u64 >= length;
        let own = &input[..kept];
        prop_assert_eq!(own, &data[..]);
        prop_assert_eq!(kept, input.len().min(length as usize));
        prop_assert_eq!(decoder.is_ended(), whole);
        let end = if whole { Ok(()) } else { Err(BodyFault::Incomplete) };
        prop_assert_eq!(decoder.end(), end);
    }
}

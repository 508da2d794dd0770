//! Heads in any pieces, with httparse as an oracle, and written heads.

use proptest::prelude::*;

use crate::{
    generators::{damaged_heads, request_heads, response_heads},
    head_checks::{self, check},
};

proptest! {
    #[test]
    fn valid_requests_are_read_in_any_pieces(head in request_heads()) {
        prop_assert!(matches!(head_checks::request(&head, &[]), Ok(Some(_))), "rejected");
        check(&head);
    }

    #[test]
    fn valid_responses_are_read_in_any_pieces(head in response_heads()) {
        let read = head_checks::response(&head, &http::Method::GET, &[]);
        prop_assert!(matches!(read, Ok(Some(_))), "rejected");
        check(&head);
    }

    #[test]
    fn damaged_heads_are_read_as_httparse_reads_them(head in damaged_heads()) {
        check(&head);
    }
}

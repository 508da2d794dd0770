//! Edited heads compared with a model.

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    generators::{request_heads, response_heads},
    head_edits_checks::{EditKind, HeadEdit, check_edits},
};

/// Edits of known and of other fields, some of them invalid.
fn edits() -> impl Strategy<Value = Vec<HeadEdit>> {
    let name = prop_oneof![
        select(
            &[
                "Host",
                "host",
                "COOKIE",
                "X-Empty",
                "x-spaces",
                "x-new",
                "Connection",
                "Date",
                "TE",
                "Content-Length",
                "",
                "a b",
                "a:",
                "a\r\nb",
                "\u{e9}",
            ][..]
        )
        .prop_map(|name| name.as_bytes().to_vec()),
        vec(any::<u8>(), 0..4),
    ];
    let value = prop_oneof![
        select(
            &[
                "",
                "a",
                " a\t",
                "close",
                "a\r\nInjected: b",
                "a\n",
                "a\rb",
                "a\0",
                "a\u{7f}",
                "\u{e9}"
            ][..]
        )
        .prop_map(|value| value.as_bytes().to_vec()),
        vec(any::<u8>(), 0..6),
    ];
    let edit = (select(&EditKind::ALL[..]), name, value);
    vec(edit.prop_map(|(kind, name, value)| HeadEdit { kind, name, value }), 0..12)
}

proptest! {
    #[test]
    fn edited_requests_are_written_as_their_model(head in request_heads(), edits in edits()) {
        prop_assert!(check_edits(&head, &edits), "rejected");
    }

    #[test]
    fn edited_responses_are_written_as_their_model(head in response_heads(), edits in edits()) {
        prop_assert!(check_edits(&head, &edits), "rejected");
    }
}

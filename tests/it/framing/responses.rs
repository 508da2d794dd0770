//! Responses with an invalid header: the counterparts of the faults of requests.

use crate::{response::assert_bad_responses, support::message};

/// Every response gets 502, and no byte of it reaches the client.
async fn assert_bad(answers: &[&str]) {
    assert_bad_responses(
        answers.iter().map(|answer| (message::get("/", ""), (*answer).to_owned())),
    )
    .await;
}

#[tokio::test]
async fn fault_011_bare_lf_in_the_header_of_a_response() {
    assert_bad(&[
        "HTTP/1.1 200 OK\nContent-Length: 6\n\nsecret",
        "HTTP/1.1 200 OK\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nX-A: b\nX-Evil: secret\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\nsecret",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\n\nsecret",
        "\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
    ])
    .await;
}

#[tokio::test]
async fn fault_012_to_014_invalid_fields_of_a_response() {
    assert_bad(&[
        "HTTP/1.1 200 OK\r\nX-A: b\r\n secret\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n\tsecret\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n Content-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding\t: chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nX-A: b\0\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nX-A: b\rc\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nX-A: b\x7f\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 O\0K\r\nContent-Length: 6\r\n\r\nsecret",
    ])
    .await;
}

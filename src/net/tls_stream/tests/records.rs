//! Key updates, records that are invalid or made by hand, and how writes become records.

use aws_lc_rs::aead;
use rustls::ConnectionTrafficSecrets;

use super::*;

#[tokio::test]
async fn keys_are_updated_from_both_sides() {
    let (mut ours, mut theirs) = served(&TLS13, 1 << 20).await;
    for round in 0..3 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(b"question").await.unwrap();
        let mut message = [0; 8];
        ours.read_exact(&mut message).await.unwrap();
        assert_eq!(&message, b"question", "{round}");
        // The own keys are updated before the answer.
        ours.write_all(b"response").await.unwrap();
        theirs.read_exact(&mut message).await.unwrap();
        assert_eq!(&message, b"response", "{round}");
    }
}

#[tokio::test]
async fn writes_succeed_while_a_key_update_has_arrived_in_part() {
    let (mut ours, mut theirs) = served(&TLS13, 1 << 20).await;
    // The client's messages pass through a pipe of the test, which cuts them.
    theirs.get_mut().1.refresh_traffic_keys().unwrap();
    let mut records = Vec::new();
    theirs.get_mut().1.write_tls(&mut records).unwrap();
    for byte in records {
        theirs.get_mut().0.write_all(&[byte]).await.unwrap();
        assert!(read_waits(&mut ours).await);
        ours.write_all(b"x").await.unwrap();
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 1);
    }
    assert!(holds_nothing(&ours));
}

#[tokio::test]
async fn an_invalid_record_ends_the_session_with_an_alert() {
    for version in VERSIONS {
        let (mut ours, mut theirs) = served(version, 1 << 20).await;
        theirs.write_all(b"valid").await.unwrap();
        let (socket, _) = theirs.get_mut();
        socket.write_all(b"\x17\x03\x03\x00\x30").await.unwrap();
        socket.write_all(&[7; 0x30]).await.unwrap();
        let mut received = Vec::new();
        let error = ours.read_to_end(&mut received).await.unwrap_err();
        assert_eq!((error.kind(), &received[..]), (io::ErrorKind::InvalidData, &b"valid"[..]));
        let inner = |error: &io::Error| error.get_ref().unwrap().to_string();
        assert_eq!(inner(&error), rustls::Error::DecryptError.to_string());
        assert_eq!(inner(&ours.read(&mut [0; 8]).await.unwrap_err()), inner(&error));
        assert_eq!(inner(&ours.write(b"more").await.unwrap_err()), inner(&error));
        let alert = theirs.read(&mut [0; 8]).await.unwrap_err();
        assert!(alert.to_string().contains("BadRecordMac"), "{alert}");
        ours.shutdown().await.unwrap();
        assert!(holds_nothing(&ours));
    }
}

#[tokio::test]
async fn parts_of_a_write_share_records() {
    let sizes: [&[usize]; 6] = [
        &[0, 100, 0, 200],
        &[10, RECORD],
        &[200, 3 * RECORD, 1],
        &[RECORD, RECORD + 1, RECORD - 1],
        &[5_000, 5_000, 5_000, 5_000],
        &[100, 200_000],
    ];
    for sizes in sizes {
        let (mut ours, mut theirs) = served(&TLS13, 1 << 20).await;
        let parts: Vec<_> = sizes.iter().map(|&size| bytes(size)).collect();
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let written = ours.write_vectored(&slices).await.unwrap();
        let expected: Vec<_> = parts.concat();
        assert_eq!(written, expected.len().min(MOST_AT_ONCE), "{sizes:?}");
        let mut received = vec![0; written];
        theirs.read_exact(&mut received).await.unwrap();
        assert!(received == expected[..written], "{sizes:?}");
    }
    let (mut ours, mut theirs) = served(&TLS13, 1 << 20).await;
    let parts = [IoSlice::new(b"two "), IoSlice::new(b"parts")];
    assert_eq!(ours.write_vectored(&parts).await.unwrap(), 9);
    let mut raw = vec![0; 10_000];
    let count = theirs.get_mut().0.read(&mut raw).await.unwrap();
    // The server's session tickets come first.
    assert_eq!(raw[count - 9 - 22..][..5], [23, 3, 3, 0, 9 + 17]);
}

/// A record of TLS 1.3 with this content type, encrypted by hand.
fn record(
    secrets: &ConnectionTrafficSecrets,
    number: u64,
    content_type: u8,
    content: &[u8],
) -> Vec<u8> {
    let (algorithm, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            (&aead::CHACHA20_POLY1305, key, iv)
        }
        _ => panic!("another cipher"),
    };
    let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
    for (byte, part) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= part;
    }
    let mut sealed = [content, &[content_type]].concat();
    let length = (sealed.len() + algorithm.tag_len()) as u16;
    let header = [&[23, 3, 3][..], &length.to_be_bytes()].concat();
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key.as_ref()).unwrap());
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(&header), &mut sealed).unwrap();
    [header, sealed].concat()
}

/// rustls accepts an empty handshake record, and discards its bytes only with the next handshake message.
#[tokio::test]
async fn an_empty_handshake_record_before_data_is_harmless() {
    let (server, client) = configs(&TLS13);
    let mut client = ClientConfig::clone(&client);
    client.enable_secret_extraction = true;
    let (ours, theirs) = duplex(1 << 20);
    let session = UnbufferedServerConnection::new(server).unwrap();
    let mut ours = TlsStream::new(session, ours, None);
    let connector = TlsConnector::from(Arc::new(client));
    let (ready, theirs) = tokio::join!(ours.handshake(), connector.connect(name(), theirs));
    ready.unwrap();
    let (mut socket, session) = theirs.unwrap().into_inner();
    let (number, secrets) = session.dangerous_extract_secrets().unwrap().tx;
    let empty = record(&secrets, number, 22, b"");
    let data = record(&secrets, number + 1, 23, &[7; RECORD]);
    socket.write_all(&[empty, data].concat()).await.unwrap();

    let mut received = [0; RECORD];
    ours.read_exact(&mut received[..100]).await.unwrap();
    ours.write_all(b"an early answer").await.unwrap();
    ours.flush().await.unwrap();
    ours.read_exact(&mut received[100..]).await.unwrap();
    assert!(received == [7; RECORD]);
}

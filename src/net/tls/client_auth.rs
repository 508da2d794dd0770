//! Whether clients prove who they are, and to whom they can.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::{
    RootCertStore,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::PROVIDER;
use crate::{config::ClientAuth, net::tickets::Context};

/// What looks at clients' certificates by these terms. A list that was due to be replaced counts on:
/// nobody is let in that it names, and nobody is locked out because its successor is late.
///
/// # Errors
/// Nobody can vouch, or a list that cannot be read.
pub(super) fn verifier(auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in &auth.ca {
        roots.add(authority.clone())?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), PROVIDER.clone());
    let builder = builder.with_crls(auth.crl.iter().cloned());
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| rustls::Error::General(error.to_string()))
}

/// What a session was made under: one is resumed nowhere where other terms hold. A session tells who
/// its client is, and resuming it asks for no proof.
pub(super) fn context(auth: Option<&ClientAuth>) -> Context {
    let Some(auth) = auth else { return Context::default() };
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&[u8::from(auth.required)]);
    let authorities = auth.ca.iter().map(|der| (0, der.as_ref()));
    let lists = auth.crl.iter().map(|der| (1, der.as_ref()));
    for (what, der) in authorities.chain(lists) {
        hash.update(&[what]);
        hash.update(&(der.len() as u64).to_be_bytes());
        hash.update(der);
    }
    Context::new(hash.finish().as_ref())
}

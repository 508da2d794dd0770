//! Verification of client certificates.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::{
    RootCertStore,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::provider::PROVIDER;
use crate::{config::ClientAuth, net::tickets::TicketContext};

/// Builds the verifier for these settings. An overdue revocation list stays in use: revoked certificates remain
/// rejected, and a late update locks no client out.
///
/// # Errors
/// An authority is not usable, or a revocation list cannot be parsed.
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

/// Returns the context of sessions created under these settings. A session is resumed in the same context only,
/// because it carries the client's identity and resumption needs no new proof.
pub(super) fn context(auth: Option<&ClientAuth>) -> TicketContext {
    let Some(auth) = auth else { return TicketContext::default() };
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&[u8::from(auth.required)]);
    let authorities = auth.ca.iter().map(|der| (0, der.as_ref()));
    let lists = auth.crl.iter().map(|der| (1, der.as_ref()));
    for (what, der) in authorities.chain(lists) {
        hash.update(&[what]);
        hash.update(&(der.len() as u64).to_be_bytes());
        hash.update(der);
    }
    TicketContext::new(hash.finish().as_ref())
}

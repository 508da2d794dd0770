//! TLS of listeners: certificates, versions, curves and client certificates.

use super::{
    super::{
        super::{
            draft::{CertificateDraft, ListenerDraft, array},
            note::NoteKind,
        },
        NginxTranslator, Scope,
        server::ServerBlock,
        syntax::Directive,
    },
    ListenGroup,
};

impl<'t> NginxTranslator<'t> {
    /// Certificates and settings of TLS.
    pub(super) fn tls(
        &mut self,
        listener: &mut ListenerDraft,
        scope: &Scope<'_, 't>,
        servers: &[&ServerBlock<'t>],
        group: &ListenGroup<'t>,
    ) {
        for server in servers {
            let inner = scope.inner(server.directive.children());
            let (certs, keys) = (inner.all("ssl_certificate"), inner.all("ssl_certificate_key"));
            let ocsp = inner.find("ssl_stapling_file").map(|file| self.file(file.arg(0)));
            for (cert, key) in certs.iter().zip(&keys) {
                if cert.arg(0).contains('$') || cert.arg(0).starts_with("data:") {
                    self.note(
                        NoteKind::Untranslated,
                        cert,
                        "a certificate is a file with a fixed path",
                    );
                    continue;
                }
                let (cert, key) = (self.file(cert.arg(0)), self.file(key.arg(0)));
                let certificate = CertificateDraft { cert, key, ocsp: ocsp.clone() };
                if !listener.certificates.contains(&certificate) {
                    listener.certificates.push(certificate);
                }
            }
        }
        if listener.certificates.is_empty() {
            let reason = "the servers of this address have no certificate: add `certificates` to the listener";
            self.note(NoteKind::Untranslated, group.directives[0], reason);
        }
        if let Some(protocols) = self.agreed(scope, servers, "ssl_protocols") {
            self.versions(listener, protocols);
        }
        if let Some(curves) = self.agreed(scope, servers, "ssl_ecdh_curve") {
            self.curves(listener, curves);
        }
        self.client_auth(listener, scope, servers);
    }

    fn versions(&mut self, listener: &mut ListenerDraft, protocols: &Directive) {
        let has = |version: &str| protocols.args.iter().any(|known| known == version);
        if !has("TLSv1.2") && has("TLSv1.3") {
            listener.settings.string("tls.min_version", "1.3");
        }
        if protocols.args.iter().any(|version| !matches!(version.as_str(), "TLSv1.2" | "TLSv1.3")) {
            self.note(NoteKind::Different, protocols, "only TLS 1.2 and 1.3 are supported");
        }
    }

    fn curves(&mut self, listener: &mut ListenerDraft, directive: &Directive) {
        let curve = |name: &str| match name {
            "X25519" | "x25519" => Some("X25519"),
            "prime256v1" | "P-256" | "secp256r1" => Some("secp256r1"),
            "secp384r1" | "P-384" => Some("secp384r1"),
            "X25519MLKEM768" => Some("X25519MLKEM768"),
            _ => None,
        };
        let names: Vec<&str> = directive.arg(0).split(':').collect();
        let known: Vec<&str> = names.iter().filter_map(|name| curve(name)).collect();
        if directive.arg(0) == "auto" {
            return;
        }
        if !known.is_empty() {
            listener.settings.set("tls.curves", array(&known));
        }
        if known.len() < names.len() {
            let reason = "supported are X25519MLKEM768, X25519, secp256r1 and secp384r1";
            self.note(NoteKind::Different, directive, reason);
        }
    }

    /// Client certificates. If one server needs them, the whole listener does.
    fn client_auth(
        &mut self,
        listener: &mut ListenerDraft,
        scope: &Scope<'_, 't>,
        servers: &[&ServerBlock<'t>],
    ) {
        let mut modes = Vec::new();
        for server in servers {
            let inner = scope.inner(server.directive.children());
            let Some(verify) = inner.all("ssl_verify_client").pop() else { continue };
            match verify.arg(0) {
                "on" | "optional" => modes.push((
                    verify,
                    inner.find("ssl_client_certificate"),
                    inner.find("ssl_crl"),
                )),
                "off" => {}
                _ => verify.handled.set(false),
            }
        }
        let strict = modes.iter().find(|(verify, ..)| verify.arg(0) == "on");
        let Some((verify, Some(ca), crl)) = strict.or_else(|| modes.first()) else { return };
        let mode = if verify.arg(0) == "on" { "required" } else { "optional" };
        listener.settings.string("tls.client_auth.mode", mode);
        listener.settings.string("tls.client_auth.ca", &self.file(ca.arg(0)));
        if let Some(crl) = crl {
            listener.settings.string("tls.client_auth.crl", &self.file(crl.arg(0)));
        }
        let all = modes.len() == servers.len();
        if !all || modes.iter().any(|(other, ..)| other.args != verify.args) {
            let reason = "client certificates are a setting of the listener: it holds for all of its servers";
            self.note(NoteKind::Different, verify, reason);
        }
    }
}

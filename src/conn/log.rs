//! Access-log lines of connections that end before their first request or stream.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;

use crate::{
    error::{ProxyError, Termination},
    net::tls::TlsInfo,
    observe::{ChosenBy, ListenerMetrics, StreamEnd, StreamKind, StreamRecord, StreamStart},
    proxy::{connection::ConnectionInfo, refusal::RejectedRequest},
    shared::SharedState,
};

/// Logs a request that was rejected before it could be served.
pub(super) fn log_rejected(proxy: &SharedState, info: &ConnectionInfo, refused: &RejectedRequest) {
    let ConnectionInfo { peer, metrics, tls_info, .. } = info;
    let (method, target) = refused.request_line();
    let snapshot = proxy.snapshot.load();
    let record = StreamRecord::new(StreamStart {
        id: refused.id.as_str(),
        client: *peer,
        listener: metrics.name(),
        tls_info: tls_info.as_ref(),
        host: "",
        method: &method,
        target: &target,
        redaction: Some(&snapshot.redaction),
    });
    let text = refused.error.source.as_ref().map(ToString::to_string);
    let end = StreamEnd { error: text.as_deref(), ..StreamEnd::new((&refused.error).into()) };
    finish(proxy, metrics, record.begun(refused.since.into_std()), refused.status, &end);
}

/// Writes the log line of a connection without a stream, and counts it.
fn finish(
    proxy: &SharedState,
    metrics: &ListenerMetrics,
    mut record: StreamRecord,
    status: u16,
    end: &StreamEnd<'_>,
) {
    record.status = status;
    metrics.ended(&end.termination, ChosenBy::None, 0, 0);
    proxy.log.load().write(&record, end);
}

/// What is logged about a connection without a stream.
pub(super) struct ConnectionFacts<'a> {
    pub(super) proxy: &'a SharedState,
    pub(super) metrics: &'a ListenerMetrics,
    pub(super) peer: SocketAddr,
    pub(super) tls_info: Option<&'a Arc<TlsInfo>>,
    /// When the connection was accepted.
    pub(super) since: Instant,
}

impl ConnectionFacts<'_> {
    pub(super) fn fail(&self, form: StreamKind, status: u16, error: &ProxyError) {
        let text = error.source.as_ref().map(ToString::to_string);
        self.log(form, status, error.into(), text.as_deref());
    }

    pub(super) fn log(
        &self,
        form: StreamKind,
        status: u16,
        termination: Termination,
        error: Option<&str>,
    ) {
        let mut record = StreamRecord::new(StreamStart {
            id: "",
            client: self.peer,
            listener: self.metrics.name(),
            tls_info: self.tls_info,
            host: "",
            method: "",
            target: "",
            redaction: None,
        });
        record.form = form;
        let record = record.begun(self.since.into_std());
        let end = StreamEnd { error, ..StreamEnd::new(termination) };
        finish(self.proxy, self.metrics, record, status, &end);
    }
}

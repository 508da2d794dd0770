//! Plain WebSocket that downloads as fast as it can.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Instant,
};

use super::{
    Context, Interruption, SessionEnd, User,
    lazy_timer::LazyTimer,
    ws::{close, open},
};
use crate::{
    net::{CloseFrame, WebSocket},
    scenario::Target,
    stats::{ErrorKind, Failure},
};

/// "Normal closure": the download is complete.
const NORMAL_CLOSURE: u16 = 1000;

/// Runs one download, until the server closes it or a command ends it.
pub(crate) async fn run(context: &Context, user: &mut User, due: Instant) -> SessionEnd {
    let path = path_and_query(&context.scenario.target);
    let (mut socket, node) = match Box::pin(open(context, user, &path)).await {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    let connected_guard = context.recorder.connected(node.as_deref(), due);
    let mut commands = pin!(user.commands.next());
    let ended = tokio::select! {
        ended = download(context, &mut socket) => Ok(ended),
        by = &mut commands => Err(by),
    };
    drop(connected_guard);
    match ended {
        Ok(Ok(close_frame)) if close_frame.code == Some(NORMAL_CLOSURE) => SessionEnd::Completed,
        Ok(Ok(close_frame)) => SessionEnd::Lost { failure: close_frame.into(), node },
        Ok(Err(failure)) => SessionEnd::Lost { failure, node },
        Err(by) => {
            if by == Interruption::Stop {
                close(context, socket).await;
            }
            SessionEnd::Interrupted { by, connected: true }
        }
    }
}

/// Counts the received bytes until the server sends a Close.
async fn download(context: &Context, socket: &mut WebSocket) -> Result<CloseFrame, Failure> {
    let limit = context.scenario.timeout;
    let mut timer = LazyTimer::new();
    loop {
        let overdue = Instant::now() + limit;
        let mut payload = pin!(socket.discard_payload());
        let discarded = poll_fn(|cx| match payload.as_mut().poll(cx) {
            Poll::Ready(discarded) => Poll::Ready(Some(discarded)),
            Poll::Pending => timer.poll_until(cx, Some(overdue)).map(|()| None),
        });
        match discarded.await {
            Some(Ok(Ok(bytes))) => context.recorder.received(bytes),
            Some(Ok(Err(close_frame))) => return Ok(close_frame),
            Some(Err(failure)) => return Err(failure),
            None => {
                let detail = format!("nothing received for {limit:?}");
                return Err(Failure::new(ErrorKind::Timeout, detail));
            }
        }
    }
}

/// Path of the downloads of the harness's echo server.
fn path_and_query(target: &Target) -> String {
    if target.path.ends_with("/bulk") {
        return target.path_and_query();
    }
    let path = format!("{}/bulk", target.path.trim_end_matches('/'));
    Target { path, ..target.clone() }.path_and_query()
}

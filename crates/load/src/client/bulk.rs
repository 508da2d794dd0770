//! Plain WebSocket that downloads as fast as it can.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Instant,
};

use super::{
    Break, Context, End, User,
    alarm::Alarm,
    ws::{goodbye, open},
};
use crate::{
    net::{Closure, WebSocket},
    scenario::Target,
    stats::{ErrorKind, Failure},
};

/// "Normal closure": the download is whole.
const WHOLE: u16 = 1000;

/// One download, until the server closes it or an order ends it.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let path = path_and_query(&context.scenario.target);
    let (mut socket, node) = match Box::pin(open(context, user, &path)).await {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    let seat = context.recorder.connected(node.as_deref(), due);
    let mut orders = pin!(user.orders.next());
    let ended = tokio::select! {
        ended = download(context, &mut socket) => Ok(ended),
        by = &mut orders => Err(by),
    };
    drop(seat);
    match ended {
        Ok(Ok(closure)) if closure.code == Some(WHOLE) => End::Said,
        Ok(Ok(closure)) => End::Lost { failure: closure.into(), node },
        Ok(Err(failure)) => End::Lost { failure, node },
        Err(by) => {
            if by == Break::Leave {
                goodbye(context, socket).await;
            }
            End::Ordered { by, connected: true }
        }
    }
}

/// Counts what comes, until the server says goodbye.
async fn download(context: &Context, socket: &mut WebSocket) -> Result<Closure, Failure> {
    let patience = context.scenario.timeout;
    let mut alarm = Alarm::new();
    loop {
        let overdue = Instant::now() + patience;
        let mut payload = pin!(socket.skim());
        let skimmed = poll_fn(|cx| match payload.as_mut().poll(cx) {
            Poll::Ready(skimmed) => Poll::Ready(Some(skimmed)),
            Poll::Pending => alarm.poll_until(cx, Some(overdue)).map(|()| None),
        });
        match skimmed.await {
            Some(Ok(Ok(bytes))) => context.recorder.received(bytes),
            Some(Ok(Err(closure))) => return Ok(closure),
            Some(Err(failure)) => return Err(failure),
            None => {
                let detail = format!("nothing came for {patience:?}");
                return Err(Failure::new(ErrorKind::Timeout, detail));
            }
        }
    }
}

/// Where the harness's echo origin pushes.
fn path_and_query(target: &Target) -> String {
    if target.path.ends_with("/bulk") {
        return target.path_and_query();
    }
    let path = format!("{}/bulk", target.path.trim_end_matches('/'));
    Target { path, ..target.clone() }.path_and_query()
}

//! The two runtimes of a server, so that nothing else can delay a connection.
//!
//! - **Workers** accept connections and run everything that a connection spawns. They have a thread for each
//!   processor, or `TOKIO_WORKER_THREADS` threads. A thread that has nothing to do steals work:
//!   `docs/internals/benchmarks.md` compares this with a runtime for each core.
//! - **Control** runs the rest: the control task, the admin API, the metrics, discovery, health checks,
//!   certificates, and reading of files. Client commands run there too.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime, RuntimeMetrics};

use crate::observe::stalls::WorkerActivity;

/// Threads of the control runtime. With two, a long list of sessions does not delay the control task.
const CONTROL_THREADS: usize = 2;

/// Access to the runtime of the workers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workers {
    handle: Handle,
    activity: WorkerActivity,
}

/// Starts the control runtime.
///
/// # Errors
/// A thread cannot be started.
pub fn control() -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(CONTROL_THREADS).thread_name("control").enable_all().build()
}

/// Starts the runtime of the workers.
///
/// # Errors
/// A thread cannot be started.
pub fn workers() -> io::Result<(Runtime, Workers)> {
    let activity = WorkerActivity::default();
    let recorded = activity.clone();
    let mut builder = Builder::new_multi_thread();
    builder.thread_name("worker").enable_all().on_thread_unpark(move || recorded.record());
    let runtime = builder.build()?;
    let handle = runtime.handle().clone();
    Ok((runtime, Workers { handle, activity }))
}

impl Workers {
    /// Spawns tasks on the workers.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The metrics of both runtimes, by name. Must be called on the control runtime.
    pub(crate) fn metrics(&self) -> Vec<(&'static str, RuntimeMetrics)> {
        vec![("workers", self.handle.metrics()), ("control", Handle::current().metrics())]
    }

    /// Whether workers have run recently.
    pub(crate) fn activity(&self) -> &WorkerActivity {
        &self.activity
    }
}

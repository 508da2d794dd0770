//! Returns free memory of the heap to the system.
//!
//! glibc returns memory only from the end of a heap. One small allocation that lives on keeps all free pages before it in
//! the process, unless the program asks for their return. Rust's standard library has no function for that. So this crate
//! has the only `unsafe` code of the workspace: one call of a C function that takes no pointer.

/// Returns pages of the heap that contain no allocation to the system. Returns whether there were any.
///
/// Locks the heap of each thread in turn, for about 0.1 ms for each MiB that it returns: threads that allocate
/// meanwhile may wait. Does nothing with other C libraries than glibc.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the standard library has no function for this")]
pub fn release_free_pages() -> bool {
    // SAFETY: malloc_trim(3) takes no pointer, is safe in any thread at any time, and leaves all allocations where they are.
    unsafe { libc::malloc_trim(0) == 1 }
}

/// Does nothing: only glibc has to be asked.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release_free_pages() -> bool {
    false
}

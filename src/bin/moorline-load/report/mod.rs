//! What people and programs see of a run: live view, summary, JSON, HTML, assertions.

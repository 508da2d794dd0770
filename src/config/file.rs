//! What was typed, with its place in the file.

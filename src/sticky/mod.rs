//! How a session stays on its backend.

mod choice;
pub mod cookie;
pub mod engine_io;
pub mod table;

pub use self::{
    choice::{Choice, Clues, choose},
    cookie::{Context, Found, Ids, Keys, read, set_cookie},
    table::{SessionHold, Table},
};

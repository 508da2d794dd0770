//! Reference tables of the docs that the program writes: the command line, metrics, API paths.
//!
//! They stand between `<!-- generated: NAME -->` and `<!-- end -->`. With `BLESS=1` in the environment they are
//! written anew; read the difference before committing it. Links and examples are checked by `tests/docs`.

#[cfg(test)]
mod page;
#[cfg(test)]
mod reference;

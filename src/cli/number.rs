//! Flags with whole numbers between two bounds.

use std::{
    fmt::{self, Debug, Display},
    str::FromStr,
};

/// A number is not a whole number within its bounds.
#[derive(Debug, PartialEq)]
pub(super) struct OutOfRange<N> {
    least: N,
    most: N,
}

impl<N: Display> Display for OutOfRange<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write a whole number from {} to {}", self.least, self.most)
    }
}

impl<N: Debug + Display> std::error::Error for OutOfRange<N> {}

/// Returns a clap parser of whole numbers within these bounds.
pub(super) fn within<N>(
    least: N,
    most: N,
) -> impl Fn(&str) -> Result<N, OutOfRange<N>> + Clone + Send + Sync + 'static
where
    N: Copy + Debug + Display + FromStr + PartialOrd + Send + Sync + 'static,
{
    move |typed| {
        let number = typed.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or(OutOfRange { least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn the_message_names_the_bounds() {
        let number = within(1_u32, 8);
        assert_eq!(number("8"), Ok(8));
        for bad in ["", "0", "9", "-1", "x", "1.5", "99999999999"] {
            let error = number(bad).unwrap_err().to_string();
            assert_eq!(error, "write a whole number from 1 to 8", "{bad}");
        }
    }
}

//! Whole numbers of flags, with bounds that the message names.

use std::{fmt::Display, str::FromStr};

/// A parser of whole numbers within these bounds, for clap.
pub(super) fn within<N>(
    least: N,
    most: N,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: Copy + Display + FromStr + PartialOrd + Send + Sync + 'static,
{
    move |typed| {
        let number = typed.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("write a whole number from {least} to {most}"))
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
            assert_eq!(number(bad), Err("write a whole number from 1 to 8".to_owned()), "{bad}");
        }
    }
}

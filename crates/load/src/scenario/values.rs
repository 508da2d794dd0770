//! Parses durations, sizes and rates. Flags and scenario files have the same syntax.

use std::{error, fmt, marker::PhantomData, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A duration such as `500ms`, `10s`, `1h 30m`, or `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DurationArg(pub(crate) Duration);

/// A number of bytes such as `64`, `4KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeArg(pub(crate) usize);

/// A number per second: `50`, `0.5`, `50/s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateArg(pub(crate) f64);

/// Maximum duration: far longer than any run, far from the overflow of clocks.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 3600);

/// Minimum rate, one in 11 days: clocks overflow with much lower ones.
const SLOWEST: f64 = 1e-6;

/// An invalid value in a flag or a scenario file, with the text that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValueError {
    /// Not a duration.
    Duration(String),
    /// A duration of more than 400 days.
    LongDuration(String),
    /// Not a size.
    Size(String),
    /// Not a rate.
    Rate(String),
    /// A rate of less than one in 11 days.
    LowRate(String),
    /// Not an event of a chaos run.
    Event(String),
    /// The node of this event is not a number.
    Node {
        /// The event.
        event: String,
        /// Its node.
        node: String,
    },
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration(text) => write!(
                f,
                "invalid duration {text}: use a number with a unit, for example 500ms, 10s or 5m"
            ),
            Self::LongDuration(text) => {
                write!(f, "invalid duration {text}: the maximum is 400 days")
            }
            Self::Size(text) => write!(f, "invalid size {text}: write it as 64, 4KiB or 1MiB"),
            Self::Rate(text) => write!(f, "invalid rate {text}: write it as 50 or 0.5/s"),
            Self::LowRate(text) => {
                write!(f, "invalid rate {text}: the minimum is one in 11 days")
            }
            Self::Event(text) => write!(
                f,
                "invalid event {text:?}: write it as '5s kill 1', '5s kill 1 back 3s', \
                 '10s hang 2 for 5s' or '20s reset 0'"
            ),
            Self::Node { event, node } => write!(
                f,
                "invalid node {node} in {event:?}: use the number of a node, counted from 0"
            ),
        }
    }
}

impl error::Error for ValueError {}

impl FromStr for DurationArg {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        if typed.trim() == "0" {
            return Ok(Self(Duration::ZERO));
        }
        match humantime::parse_duration(typed) {
            Ok(duration) if duration <= LONGEST => Ok(Self(duration)),
            Ok(_) => Err(ValueError::LongDuration(typed.to_owned())),
            Err(_) => Err(ValueError::Duration(typed.to_owned())),
        }
    }
}

impl FromStr for SizeArg {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Size(typed.to_owned());
        let typed = typed.trim();
        let digits = typed.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number: usize = digits.parse().map_err(|_| wrong())?;
        let unit = match typed[digits.len()..].trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl FromStr for RateArg {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let number = typed.trim().trim_end_matches("/s");
        match number.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate >= SLOWEST => Ok(Self(rate)),
            Ok(rate) if rate > 0.0 && rate < SLOWEST => Err(ValueError::LowRate(typed.to_owned())),
            _ => Err(ValueError::Rate(typed.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for DurationArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(typed("a duration in quotes, such as \"10s\""))
    }
}

impl<'de> Deserialize<'de> for SizeArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(typed("a number of bytes, or a size such as \"4KiB\""))
    }
}

impl<'de> Deserialize<'de> for RateArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(typed("a number per second, such as 50 or \"50/s\""))
    }
}

/// Deserializes a string, or a number as if it were in quotes.
struct Typed<T> {
    wanted: &'static str,
    made: PhantomData<T>,
}

/// A visitor that expects `wanted`.
fn typed<T>(wanted: &'static str) -> Typed<T> {
    Typed { wanted, made: PhantomData }
}

impl<T: FromStr<Err = ValueError>> de::Visitor<'_> for Typed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_str<E: de::Error>(self, typed: &str) -> Result<T, E> {
        typed.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, typed: i64) -> Result<T, E> {
        self.visit_str(&typed.to_string())
    }

    fn visit_f64<E: de::Error>(self, typed: f64) -> Result<T, E> {
        self.visit_str(&typed.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!("10s".parse(), Ok(DurationArg(Duration::from_secs(10))));
        assert_eq!("1h 30m".parse(), Ok(DurationArg(Duration::from_secs(5400))));
        assert_eq!("0".parse(), Ok(DurationArg(Duration::ZERO)));
        let fault = "10".parse::<DurationArg>().unwrap_err().to_string();
        assert_eq!(
            fault,
            "invalid duration 10: use a number with a unit, for example 500ms, 10s or 5m"
        );
        assert!("1000d".parse::<DurationArg>().is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!("64".parse(), Ok(SizeArg(64)));
        assert_eq!("4KiB".parse(), Ok(SizeArg(4096)));
        for wrong in ["", "4kb", "KiB", "-1", "99999999999999999999", "18446744073709551615KiB"] {
            assert!(wrong.parse::<SizeArg>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!("50/s".parse(), Ok(RateArg(50.0)));
        assert_eq!("0.5".parse(), Ok(RateArg(0.5)));
        for wrong in ["0", "-1", "1e-300", "inf", "NaN", "fast"] {
            assert!(wrong.parse::<RateArg>().is_err(), "{wrong}");
        }
    }
}

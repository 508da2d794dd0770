//! Values that people type: durations, sizes, rates. Read alike from flags and files.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A duration such as `500ms`, `10s`, `1h 30m`; a bare `0` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// A number of bytes such as `64`, `4KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

/// So many a second: `50`, `0.5`, `50/s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate(pub(crate) f64);

/// Longest duration: far beyond any run, far from where clocks overflow.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 3600);

/// Slowest rate, one in 11 days: beyond it clocks overflow sooner or later.
const SLOWEST: f64 = 1e-6;

impl FromStr for Span {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        if typed.trim() == "0" {
            return Ok(Self(Duration::ZERO));
        }
        match humantime::parse_duration(typed) {
            Ok(duration) if duration <= LONGEST => Ok(Self(duration)),
            Ok(_) => Err(format!("invalid duration {typed}: the longest is 400 days")),
            Err(_) => Err(format!(
                "invalid duration {typed}: use a number with a unit, for example 500ms, 10s or 5m"
            )),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let wrong = || format!("invalid size {typed}: write it as 64, 4KiB or 1MiB");
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

impl FromStr for Rate {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let number = typed.trim().trim_end_matches("/s");
        match number.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate >= SLOWEST => Ok(Self(rate)),
            Ok(rate) if rate > 0.0 && rate < SLOWEST => {
                Err(format!("invalid rate {typed}: the lowest is one in 11 days"))
            }
            _ => Err(format!("invalid rate {typed}: write it as 50 or 0.5/s")),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(typed("a duration in quotes, such as \"10s\""))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(typed("a number of bytes, or a size such as \"4KiB\""))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(typed("a number a second, such as 50 or \"50/s\""))
    }
}

/// Takes a string, and a number as if it had been typed in quotes.
struct Typed<T> {
    wanted: &'static str,
    made: PhantomData<T>,
}

/// A visitor that says it wanted this.
fn typed<T>(wanted: &'static str) -> Typed<T> {
    Typed { wanted, made: PhantomData }
}

impl<T: FromStr<Err = String>> de::Visitor<'_> for Typed<T> {
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
        assert_eq!("10s".parse(), Ok(Span(Duration::from_secs(10))));
        assert_eq!("1h 30m".parse(), Ok(Span(Duration::from_secs(5400))));
        assert_eq!("0".parse(), Ok(Span(Duration::ZERO)));
        let fault = "10".parse::<Span>().unwrap_err();
        assert_eq!(
            fault,
            "invalid duration 10: use a number with a unit, for example 500ms, 10s or 5m"
        );
        assert!("1000d".parse::<Span>().is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!("64".parse(), Ok(Size(64)));
        assert_eq!("4KiB".parse(), Ok(Size(4096)));
        for wrong in ["", "4kb", "KiB", "-1", "99999999999999999999", "18446744073709551615KiB"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!("50/s".parse(), Ok(Rate(50.0)));
        assert_eq!("0.5".parse(), Ok(Rate(0.5)));
        for wrong in ["0", "-1", "1e-300", "inf", "NaN", "fast"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}

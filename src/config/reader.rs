//! Typed readers: from a value or a key to a Rust type, or a fault that says what is expected.
//!
//! A reader notes its fault and returns `None` or the default. Must not know what any key means.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use toml::de::DeValue;

use super::{
    Rate,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    schema::nearest,
};

/// Longest duration of any setting. Browsers cap the lifetime of a cookie here (RFC 6265bis §5.5);
/// clocks overflow far beyond it.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Shortest deadline: the resolution of tokio's timers.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// Maximum count of a rate.
const FASTEST: u32 = 1_000_000;

impl<'t> TomlValue<'t> {
    /// Any string.
    pub(super) fn string(&self) -> Option<&'t str> {
        let string = self.node.get_ref().as_str();
        if string.is_none() {
            self.wrong_type("a string");
        }
        string
    }

    /// A string that `parse` understands.
    pub(super) fn parsed<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        self.checked(parse(self.string()?))
    }

    /// Reads an array of at least one string, or one string.
    pub(super) fn strings<T>(&self, parse: impl Fn(&str) -> Result<T, InvalidValue>) -> Vec<T> {
        let Some(elements) = self.elements() else {
            if !self.node.get_ref().is_str() {
                self.wrong_type("a string or an array of strings");
                return Vec::new();
            }
            return self.parsed(parse).into_iter().collect();
        };
        let elements: Vec<TomlValue<'_>> = elements.collect();
        if elements.is_empty() {
            let wrong = InvalidValue::new(format!("`{}` is empty", self.key));
            self.fault(wrong.help("write at least one value, or remove the key"));
        }
        elements.iter().filter_map(|element| element.parsed(&parse)).collect()
    }

    /// The value of a result; its fault is noted.
    pub(super) fn checked<T>(&self, result: Result<T, InvalidValue>) -> Option<T> {
        result.map_err(|wrong| self.fault(wrong)).ok()
    }

    /// A boolean, if the value is one.
    pub(super) fn switch(&self) -> Option<bool> {
        let expanded = || self.expanded().and_then(|text| text.trim().parse().ok());
        self.node.get_ref().as_bool().or_else(expanded)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let boolean = self.switch();
        if boolean.is_none() {
            self.wrong_type("true or false");
        }
        boolean
    }

    /// An integer within these bounds.
    pub(super) fn integer<N>(&self, bounds: RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i64> + PartialOrd + Display,
    {
        let number = match (self.node.get_ref(), self.expanded()) {
            (DeValue::Integer(integer), _) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            (_, Some(text)) if text.trim().parse::<i64>().is_ok() => text.trim().parse().ok(),
            _ => {
                self.wrong_type("an integer");
                return None;
            }
        };
        self.bounded(number.and_then(|number| N::try_from(number).ok()), bounds)
    }

    /// A number of bytes within these bounds: an integer, or a string such as "64KiB".
    pub(super) fn size(&self, bounds: RangeInclusive<usize>) -> Option<usize> {
        match self.node.get_ref() {
            DeValue::Integer(_) => self.integer(bounds),
            DeValue::String(text) => {
                let bytes = self.checked(size(text))?;
                self.bounded(usize::try_from(bytes).ok(), bounds)
            }
            _ => {
                self.wrong_type("a size such as \"64KiB\"");
                None
            }
        }
    }

    fn bounded<N>(&self, number: Option<N>, bounds: RangeInclusive<N>) -> Option<N>
    where
        N: PartialOrd + Display,
    {
        let within = number.filter(|number| bounds.contains(number));
        if within.is_none() {
            let (low, high) = bounds.into_inner();
            let message = format!("{} must be from {low} to {high}", quoted(self.key));
            self.fault(
                InvalidValue::new(message).help(format!("write a number from {low} to {high}")),
            );
        }
        within
    }

    /// A duration of at least `shortest`.
    pub(super) fn duration(&self, shortest: Duration) -> Option<Duration> {
        let DeValue::String(text) = self.node.get_ref() else {
            self.wrong_type_with_help("a duration such as \"500ms\", \"2s\" or \"5m\"", || {
                self.as_duration().map(|text| format!("add a unit and quotes: \"{text}\""))
            });
            return None;
        };
        let duration = self.checked(duration(text))?;
        if duration < shortest {
            let shortest = humantime::format_duration(shortest);
            let message = format!("{} must be at least {shortest}", quoted(self.key));
            self.fault(InvalidValue::new(message).help(format!("write \"{shortest}\" or more")));
            return None;
        }
        Some(duration)
    }

    /// A duration within these bounds.
    pub(super) fn duration_within(&self, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self.duration(*bounds.start())?;
        if duration > *bounds.end() {
            let longest = humantime::format_duration(*bounds.end());
            let message = format!("{} must be at most {longest}", quoted(self.key));
            self.fault(InvalidValue::new(message).help(format!("write \"{longest}\" or less")));
            return None;
        }
        Some(duration)
    }

    /// A percentage such as "50%", at least `least`.
    pub(super) fn percent(&self, least: u8) -> Option<u8> {
        let DeValue::String(text) = self.node.get_ref() else {
            self.wrong_type_with_help("a percentage such as \"50%\"", || {
                self.typed_number().map(|number| format!("add the sign and quotes: \"{number}%\""))
            });
            return None;
        };
        let percent = self.checked(percent(text))?;
        self.bounded(Some(percent), least..=100)
    }

    /// A rate such as "50/s".
    pub(super) fn rate(&self) -> Option<Rate> {
        let DeValue::String(text) = self.node.get_ref() else {
            self.wrong_type_with_help("a rate such as \"50/s\"", || {
                let number = self.typed_number()?;
                Some(format!("add the unit of time and quotes: \"{number}/s\""))
            });
            return None;
        };
        self.checked(rate(text))
    }

    /// The source text of a number without quotes.
    pub(super) fn typed_number(&self) -> Option<&'t str> {
        let number = matches!(self.node.get_ref(), DeValue::Integer(_) | DeValue::Float(_));
        number.then(|| self.typed()).filter(|text| !text.starts_with('-'))
    }

    /// The duration that a number without a unit probably means, in seconds.
    pub(super) fn as_duration(&self) -> Option<String> {
        let number = self.typed_number()?;
        if number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(format!("{number}s"));
        }
        let seconds =
            number.parse::<f64>().ok().filter(|seconds| (0.001..1e6).contains(seconds))?;
        Some(format!("{:.0}ms", seconds * 1000.0))
    }

    /// One of these words.
    pub(super) fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(|typed| choice(self.key, typed, choices))
    }
}

impl TomlTable<'_> {
    /// A deadline, never 0.
    pub(super) fn deadline(&self, key: &'static str, default: Duration) -> Duration {
        self.value(key).and_then(|value| value.duration(SHORTEST)).unwrap_or(default)
    }

    /// A duration that may be 0.
    pub(super) fn period(&self, key: &'static str, default: Duration) -> Duration {
        self.value(key).and_then(|value| value.duration(Duration::ZERO)).unwrap_or(default)
    }

    /// A percentage.
    pub(super) fn percent(&self, key: &'static str, least: u8, default: u8) -> u8 {
        self.value(key).and_then(|value| value.percent(least)).unwrap_or(default)
    }

    pub(super) fn boolean(&self, key: &'static str, default: bool) -> bool {
        self.value(key).and_then(|value| value.boolean()).unwrap_or(default)
    }

    pub(super) fn integer<N>(&self, key: &'static str, within: RangeInclusive<N>, default: N) -> N
    where
        N: TryFrom<i64> + PartialOrd + Display,
    {
        self.value(key).and_then(|value| value.integer(within)).unwrap_or(default)
    }
}

/// The meaning of a word among the choices of a key.
fn choice<T: Clone>(key: &str, typed: &str, choices: &[(&str, T)]) -> Result<T, InvalidValue> {
    if let Some((_, meaning)) = choices.iter().find(|(word, _)| *word == typed) {
        return Ok(meaning.clone());
    }
    let words = || choices.iter().map(|(word, _)| *word);
    let wrong = InvalidValue::new(format!("invalid {key} {}", quoted(typed)));
    Err(match nearest(typed, words()) {
        Some(near) => wrong.help(format!("did you mean \"{near}\"?")),
        None => {
            let words: Vec<String> = words().map(|word| format!("\"{word}\"")).collect();
            wrong.help(format!("use one of {}", words.join(", ")))
        }
    })
}

/// A duration as humantime reads it: "500ms", "2s", "5m", "1h 30m".
fn duration(text: &str) -> Result<Duration, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid duration {}", quoted(text)));
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err(wrong().help("the longest duration is \"400d\"")),
        Ok(duration) => Ok(duration),
        Err(_) => Err(match text.trim().parse::<u32>() {
            Ok(number) => wrong().help(format!("add a unit: \"{number}s\" or \"{number}ms\"")),
            Err(_) => {
                wrong().help("write a number with a unit, for example \"500ms\", \"2s\" or \"5m\"")
            }
        }),
    }
}

/// A number of bytes: "512", "512B", "64KiB", "1MB".
fn size(text: &str) -> Result<u64, InvalidValue> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim_start() {
        "" | "B" => Some(1),
        "kB" | "KB" => Some(1000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(n, f)| n.checked_mul(f));
    bytes.ok_or_else(|| {
        InvalidValue::new(format!("invalid size {}", quoted(text)))
            .help("write a number with a unit, for example \"512B\", \"64KiB\" or \"1MiB\"")
    })
}

/// A percentage: "50%".
fn percent(text: &str) -> Result<u8, InvalidValue> {
    let number = text.strip_suffix('%').map(str::trim_end);
    let digits = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let percent = digits.and_then(|digits| digits.parse().ok()).filter(|percent| *percent <= 100);
    percent.ok_or_else(|| {
        let wrong = InvalidValue::new(format!("invalid percentage {}", quoted(text)));
        match text.trim().parse::<u8>() {
            Ok(number @ 0..=100) => wrong.help(format!("add the sign: \"{number}%\"")),
            _ => {
                wrong.help("write a whole number from 0 to 100 with the sign, for example \"50%\"")
            }
        }
    })
}

/// A count per second, minute or hour: "50/s", "3000/m", "2/h".
fn rate(text: &str) -> Result<Rate, InvalidValue> {
    let (number, unit) = text.split_once('/').unwrap_or((text, ""));
    let number = number.trim();
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let times = number.parse().ok().filter(|times| digits && (1..=FASTEST).contains(times));
    let seconds = match unit.trim() {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    match (times, seconds) {
        (Some(times), Some(seconds)) => Ok(Rate { times, per: Duration::from_secs(seconds) }),
        _ => Err(InvalidValue::new(format!("invalid rate {}", quoted(text))).help(format!(
            "write a number from 1 to {FASTEST} per second, minute or hour: \"50/s\", \"3000/m\" or \"2/h\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{choice, duration, percent, rate, size};

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("400d").unwrap().as_secs(), 400 * 86_400);
        let help = |text: &str| duration(text).unwrap_err().help.unwrap();
        assert_eq!(help("5"), "add a unit: \"5s\" or \"5ms\"");
        assert_eq!(help("401d"), "the longest duration is \"400d\"");
        for bad in ["", "s", "5 parsecs", "-1s", "99999999999999999999s", "584942417355y"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("512B"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("64 KiB"), Ok(65_536));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for bad in ["", "KiB", "64kib", "-1", "1.5KiB", "99999999999999999999", "17179869184GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_whole_percents() {
        assert_eq!(percent("0%"), Ok(0));
        assert_eq!(percent("100 %"), Ok(100));
        assert_eq!(percent("30").unwrap_err().help.unwrap(), "add the sign: \"30%\"");
        for bad in ["", "%", "101%", "-1%", "+1%", "1.5%", "50%%", "half"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_counts_by_a_unit_of_time() {
        let parts = |text| rate(text).map(|rate| (rate.times, rate.per.as_secs()));
        assert_eq!(parts("50/s"), Ok((50, 1)));
        assert_eq!(parts("3000 / m"), Ok((3000, 60)));
        assert_eq!(parts("2/h"), Ok((2, 3600)));
        assert_eq!(rate("2/h").unwrap().interval(), Duration::from_secs(1800));
        for bad in ["", "50", "/s", "0/s", "-1/s", "+1/s", "1/d", "1.5/s", "1/s/s", "1000001/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn choices_suggest_the_nearest_or_all() {
        let choices = [("round-robin", 1), ("p2c", 2)];
        assert_eq!(choice("balance", "p2c", &choices), Ok(2));
        let help = |typed| choice("balance", typed, &choices).unwrap_err().help.unwrap();
        assert_eq!(help("roundrobin"), "did you mean \"round-robin\"?");
        assert_eq!(help("best"), "use one of \"round-robin\", \"p2c\"");
    }
}

//! Deadlines on the command line: a duration, or a local time.

use std::{fmt, time::Duration};

use jiff::{ZonedDateTime, civil::Time};

/// Maximum duration, as in the configuration.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);

/// Why a duration or a time of day is invalid.
#[derive(Debug)]
pub(super) enum InvalidTime {
    /// The duration is longer than the maximum.
    TooLong,
    /// The text is not a duration.
    Duration(humantime::DurationError),
    /// The text is not a time of day.
    TimeOfDay,
}

impl fmt::Display for InvalidTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("the maximum is 400d"),
            Self::Duration(error) => write!(f, "write it as 90s, 5m or \"1h 30m\": {error}"),
            Self::TimeOfDay => f.write_str("write it as 14:05 or 14:05:30"),
        }
    }
}

impl std::error::Error for InvalidTime {}

/// Parses a duration: `90s`, `5m`, `1h 30m`.
pub(super) fn length(typed: &str) -> Result<Duration, InvalidTime> {
    match humantime::parse_duration(typed) {
        Ok(length) if length <= LONGEST => Ok(length),
        Ok(_) => Err(InvalidTime::TooLong),
        Err(error) => Err(InvalidTime::Duration(error)),
    }
}

/// Parses a time of day: `14:05` or `14:05:30`.
pub(super) fn time(typed: &str) -> Result<Time, InvalidTime> {
    let format = if typed.matches(':').count() == 2 { "%H:%M:%S" } else { "%H:%M" };
    Time::strptime(format, typed).map_err(|_| InvalidTime::TimeOfDay)
}

/// Returns the time until the local clock next shows `time`.
///
/// # Errors
/// The date is out of range.
pub(super) fn until(time: Time) -> anyhow::Result<Duration> {
    from(&ZonedDateTime::now(), time)
}

fn from(now: &ZonedDateTime, time: Time) -> anyhow::Result<Duration> {
    let mut then = now.with().time(time).build()?;
    if then <= *now {
        // A calendar day, which is not always 24 hours, because of daylight saving time.
        then = now.tomorrow()?.with().time(time).build()?;
    }
    Ok(Duration::try_from(now.duration_until(&then))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(now: &str, time: &str) -> u64 {
        let now: jiff::civil::DateTime = now.parse().unwrap();
        let now = now.to_zoned_datetime(jiff::tz::TimeZone::UTC).unwrap();
        from(&now, super::time(time).unwrap()).unwrap().as_secs() / 60
    }

    #[test]
    fn a_time_that_has_passed_is_tomorrow() {
        assert_eq!(minutes("2026-11-20T13:00:00", "14:05"), 65);
        assert_eq!(minutes("2026-11-20T14:05:00", "14:05"), 24 * 60);
        assert_eq!(minutes("2026-12-31T23:59:00", "00:00"), 1);
    }

    #[test]
    fn invalid_times_are_rejected() {
        for bad in ["", "14", "25:00", "14:60", "14:05:61", "2pm", "14:05 ", "-1:00"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert!(time("9:05").is_ok() && time("00:00:59").is_ok());
    }

    #[test]
    fn durations_are_parsed() {
        assert_eq!(length("1h 30m").unwrap(), Duration::from_secs(5400));
        for bad in ["", "5", "-1s", "five", "401d"] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }
}

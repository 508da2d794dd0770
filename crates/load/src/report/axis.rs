//! Axes of a chart: positions of values, and labels.

use super::formatting::{self, count};

/// Maximum labels of an axis.
const MAX_TICKS: f64 = 6.0;

/// Steps between labels of a time axis, in seconds.
const TIME_STEPS: [f64; 15] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0,
    14_400.0,
];

/// One axis of a chart.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// Values with labels, ascending.
    pub(super) ticks: Vec<(f64, String)>,
    unit: Unit,
}

/// Unit of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Clients, messages, errors.
    Count,
    /// Microseconds.
    Micros,
    /// Bytes.
    Bytes,
    /// Hundredths of a core.
    Percent,
    /// Seconds since the start of the run.
    Clock,
    /// Quantiles, as the negative decimal logarithm of the share above them.
    Quantile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

impl Axis {
    /// A linear axis from 0 to at least `high`.
    pub(super) fn linear(high: f64, unit: Unit) -> Self {
        let least = if unit == Unit::Count { 4.0 } else { f64::MIN_POSITIVE };
        let step = match unit {
            // Binary units for memory.
            Unit::Bytes => {
                let scale = 1024_f64.powf((high.max(1.0).log2() / 10.0).floor());
                nice_step(high.max(1.0) / scale / (MAX_TICKS - 1.0)) * scale
            }
            _ => nice_step(high.max(least) / (MAX_TICKS - 1.0)),
        };
        let steps = (high / step).ceil().max(1.0);
        let ticks = (0..=steps as u32).map(|n| f64::from(n) * step);
        Self::with(Scale::Linear, (0.0, steps * step), ticks, unit)
    }

    /// A time axis from the start of the run to `end`.
    pub(super) fn time(end: f64) -> Self {
        let end = end.max(1.0);
        let fits = |step: &f64| end / step <= MAX_TICKS;
        let hours = || (end / MAX_TICKS / 14_400.0).ceil() * 14_400.0;
        let step = TIME_STEPS.into_iter().find(fits).unwrap_or_else(hours);
        let ticks = (0..=(end / step) as u32).map(|n| f64::from(n) * step);
        let mut axis = Self::with(Scale::Linear, (0.0, end), ticks, Unit::Clock);
        for (at, name) in &mut axis.ticks {
            *name = clock(*at, end);
        }
        axis
    }

    /// A logarithmic axis that contains all `values` above 0.
    pub(super) fn log(values: impl Iterator<Item = f64> + Clone, unit: Unit) -> Self {
        let positive = values.filter(|&value| value > 0.0);
        let low = positive.clone().fold(f64::INFINITY, f64::min);
        let high = positive.fold(0.0, f64::max);
        let (low, high) = if low.is_finite() { (low, high) } else { (1.0, 10.0) };
        let (low, high) = (round_down(low), round_up(high.max(low * 1.001)));
        let wide = (high / low).log10() > 2.0;
        let steps: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let ticks = decades.flat_map(|decade| steps.iter().map(move |s| s * 10_f64.powi(decade)));
        let ticks: Vec<_> =
            ticks.filter(|tick| (low * 0.999..=high * 1.001).contains(tick)).collect();
        Self::with(Scale::Log, (low, high), ticks.into_iter(), unit)
    }

    /// A quantile axis for `count` values that spreads out the high quantiles.
    pub(super) fn quantiles(count: u64) -> Self {
        let high = (count.max(1) as f64).log10().ceil().clamp(2.0, 5.0);
        let mut ticks = vec![0.0];
        if high <= 3.0 {
            ticks.push(nines(0.5));
        }
        ticks.extend((1..=high as u32).map(f64::from));
        Self::with(Scale::Linear, (0.0, high), ticks.into_iter(), Unit::Quantile)
    }

    fn with(
        scale: Scale,
        (low, high): (f64, f64),
        ticks: impl Iterator<Item = f64>,
        unit: Unit,
    ) -> Self {
        let ticks = ticks.map(|at| (at, unit.short(at))).collect();
        Self { scale, low, high, ticks, unit }
    }

    /// Returns the position of `value`, from 0 to 1. Values outside the axis are clamped.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Unit of the axis.
    pub(super) fn unit(&self) -> Unit {
        self.unit
    }
}

impl Unit {
    /// Formats a value for tables.
    pub(super) fn long(self, value: f64) -> String {
        match self {
            Self::Count => formatting::number(value),
            Self::Micros => formatting::micros(value.round() as u64),
            Self::Bytes => formatting::bytes(value.round() as u64),
            Self::Percent => format!("{} %", formatting::number(value)),
            Self::Clock => format!("{value:.1} s"),
            Self::Quantile => format!("{} %", percent(value)),
        }
    }

    /// Formats a value for labels, where space is limited.
    fn short(self, value: f64) -> String {
        match self {
            Self::Count if value >= 1e6 => format!("{}M", formatting::number(value / 1e6)),
            Self::Count if value >= 1e4 => format!("{}k", formatting::number(value / 1e3)),
            Self::Count if value >= 1.0 => count(value.round() as u64),
            Self::Count => formatting::number(value),
            Self::Quantile => percent(value),
            _ => self.long(value),
        }
    }
}

/// Negative decimal logarithm of the share above a quantile: 0.9 is 1, 0.99 is 2.
pub(super) fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(f64::MIN_POSITIVE).log10()
}

/// Inverse of [`nines`] in percent, with as many digits as needed to distinguish neighboring labels.
fn percent(nines: f64) -> String {
    let left = 100.0 * 10_f64.powf(-nines);
    let digits = (nines.round() as usize).saturating_sub(2);
    format!("{:.digits$}", 100.0 - left)
}

fn clock(at: f64, end: f64) -> String {
    let at = at.round() as u64;
    match end {
        _ if at == 0 => "0".to_owned(),
        ..=120.0 => format!("{at} s"),
        ..=7_200.0 => format!("{}:{:02}", at / 60, at % 60),
        _ => format!("{}:{:02} h", at / 3600, at / 60 % 60),
    }
}

/// Rounds up to 1, 2 or 5 times a power of ten.
fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    let fits = |step: &f64| *step >= least * 0.999_999;
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(fits).unwrap_or(power * 10.0)
}

fn round_up(value: f64) -> f64 {
    nice_step(value)
}

fn round_down(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let fits = |digit: &f64| digit * power <= value * 1.000_001;
    [5.0, 2.0, 1.0].into_iter().find(fits).unwrap_or(1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn linear_axis_has_round_steps_from_zero() {
        let axis = Axis::linear(8_000.0, Unit::Count);
        assert_eq!(names(&axis), ["0", "2,000", "4,000", "6,000", "8,000"]);
        assert_eq!(axis.place(4_000.0), 0.5);
        assert_eq!(names(&Axis::linear(0.0, Unit::Count)), ["0", "1"]);
        assert_eq!(names(&Axis::linear(3.0, Unit::Count)), ["0", "1", "2", "3"]);
        let memory = Axis::linear(90.0 * 1024.0 * 1024.0, Unit::Bytes);
        assert_eq!(names(&memory).last(), Some(&"100 MiB"));
    }

    #[test]
    fn log_axis_spans_all_values_with_at_least_two_labels() {
        let axis = Axis::log([120.0, 81_000.0].into_iter(), Unit::Micros);
        assert_eq!(
            names(&axis),
            ["1 ms", "10 ms", "100 ms"].map(|n| n).iter().fold(vec!["100 µs"], |mut all, n| {
                all.push(n);
                all
            })
        );
        assert_eq!(axis.place(100.0), 0.0);
        assert!(axis.place(81_000.0) < 1.0);
        let narrow = Axis::log([300.0, 301.0].into_iter(), Unit::Micros);
        assert_eq!(names(&narrow), ["200 µs", "500 µs"]);
        assert!(!Axis::log([].into_iter(), Unit::Micros).ticks.is_empty());
        assert!(Axis::log([7.0].into_iter(), Unit::Micros).place(7.0).is_finite());
    }

    #[test]
    fn quantile_axis_spreads_high_quantiles() {
        let axis = Axis::quantiles(12_000);
        assert_eq!(names(&axis), ["0", "90", "99", "99.9", "99.99", "99.999"]);
        assert!((axis.place(nines(0.99)) - 0.4).abs() < 1e-9);
        assert_eq!(axis.place(nines(1.0)), 1.0);
    }

    #[test]
    fn time_axis_uses_clock_times_for_long_runs() {
        assert_eq!(names(&Axis::time(45.0)), ["0", "10 s", "20 s", "30 s", "40 s"]);
        assert_eq!(names(&Axis::time(300.0)), ["0", "1:00", "2:00", "3:00", "4:00", "5:00"]);
        assert_eq!(
            names(&Axis::time(9_000.0)),
            ["0", "0:30 h", "1:00 h", "1:30 h", "2:00 h", "2:30 h"]
        );
        assert!(Axis::time(1e6).ticks.len() < 9);
    }
}

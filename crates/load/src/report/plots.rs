//! Selects the charts of a run, and computes their content.

use super::{
    axis::{Axis, Unit, nines},
    chart::{Chart, Form, Layer, Point},
    formatting::{self, count, micros},
    json::{Distribution, Document, SecondRow},
};
use crate::stats::{Moment, Quantiles};

/// Maximum points per series: with more seconds, several are combined into one point.
const MAX_POINTS: usize = 240;

/// Maximum nodes with their own color; the rest is combined.
const MAX_NODES: usize = 7;

/// Colors for categories, in the order of use.
const COLOURS: [&str; 8] = ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"];

/// Zero at the start of the run.
const START: Point = Point { x: 0.0, base: 0.0, value: Some(0.0) };

/// Returns the charts that have data.
pub(super) fn charts(document: &Document) -> Vec<Chart> {
    if document.seconds.is_empty() {
        return Vec::new();
    }
    let run = Run::new(document);
    let latency = &document.latency;
    let all = [
        Some(run.connected()),
        run.messages(),
        run.latency("message-latency", "Latency of messages", |s| &s.message, &latency.message),
        curves(document),
        run.handshakes(),
        run.latency("connect-latency", "Latency of connects", |s| &s.connect, &latency.connect),
        run.latency(
            "broadcast-latency",
            "Latency of broadcasts",
            |s| &s.broadcast,
            &latency.broadcast,
        ),
        run.errors(),
        run.nodes(),
        run.cpu(),
        run.memory(),
    ];
    all.into_iter().flatten().collect()
}

/// The seconds of a run, combined into chunks if there are many.
struct Run<'a> {
    document: &'a Document,
    chunks: Vec<&'a [SecondRow]>,
}

impl<'a> Run<'a> {
    fn new(document: &'a Document) -> Self {
        let seconds = &document.seconds;
        // The last second may be too short for a rate; it is added to the previous chunk.
        let short = seconds.len() > 1 && seconds.last().is_some_and(|last| last.span_s < 0.5);
        let whole = seconds.len() - usize::from(short);
        let size = whole.div_ceil(MAX_POINTS).max(1);
        let chunks = (0..whole).step_by(size).map(|start| {
            let end = start + size;
            &seconds[start..if end < whole { end } else { seconds.len() }]
        });
        Self { document, chunks: chunks.collect() }
    }

    /// A chart over time.
    fn chart(&self, id: &'static str, title: &'static str, y: Axis, layers: Vec<Layer>) -> Chart {
        let at = |moment| {
            let mut points = self.document.checkpoints.iter();
            points.find(|point| point.moment == moment).map(|point| point.at_s)
        };
        Chart {
            id,
            title,
            description: String::new(),
            x: Axis::time(self.document.length_s),
            y,
            layers,
            shade: at(Moment::SteadyStart).zip(at(Moment::SteadyEnd)),
            marks: self.document.marks.iter().map(|mark| mark.at_s).collect(),
            limit: None,
        }
    }

    fn layer(
        &self,
        (name, class, form): (impl Into<String>, &'static str, Form),
        value: impl Fn(&[SecondRow]) -> Option<f64>,
    ) -> Layer {
        let point = |chunk: &&[SecondRow]| Point {
            x: chunk.last().map_or(0.0, |second| second.at_s),
            base: 0.0,
            value: value(chunk),
        };
        let points = self.chunks.iter().map(point).collect();
        Layer { name: name.into(), class, form, points }
    }

    fn connected(&self) -> Chart {
        let last = |chunk: &[SecondRow]| chunk.last().map(|second| second.connected as f64);
        let mut layer = self.layer(("clients", "s1", Form::Area), last);
        layer.points.insert(0, START);
        let y = Axis::linear(self.document.peak_connected as f64, Unit::Count);
        let mut chart = self.chart("connected", "Clients connected", y, vec![layer]);
        let peak = count(self.document.peak_connected);
        chart.description = format!("Clients connected over time; at most {peak} at once.");
        chart
    }

    fn messages(&self) -> Option<Chart> {
        let totals = &self.document.totals;
        let sent = rate(|second| second.counters.sent);
        let answered = rate(|second| second.counters.answered);
        let broadcasts = rate(|second| second.counters.broadcasts);
        let layers: Vec<_> = [
            // A dashed line over a solid one: both stay visible if they coincide.
            (totals.answered, self.layer(("answered", "s1", Form::Line), answered)),
            (totals.sent, self.layer(("sent", "s2", Form::Line), sent)),
            (totals.broadcasts, self.layer(("broadcasts received", "s3", Form::Line), broadcasts)),
        ]
        .into_iter()
        .filter_map(|(total, layer)| (total > 0).then_some(layer))
        .collect();
        let sums = format!("{} sent, {} answered", count(totals.sent), count(totals.answered));
        self.rates("messages", "Messages per second", layers, sums)
    }

    fn handshakes(&self) -> Option<Chart> {
        let connects = rate(|second| second.counters.connects);
        let layer = self.layer(("connects", "s1", Form::Bars), connects);
        let sums = format!("{} in total", count(self.document.totals.connects));
        let some = self.document.totals.connects > 0;
        self.rates(
            "handshakes",
            "Handshakes per second",
            some.then_some(layer).into_iter().collect(),
            sums,
        )
    }

    fn rates(
        &self,
        id: &'static str,
        title: &'static str,
        layers: Vec<Layer>,
        sums: String,
    ) -> Option<Chart> {
        if layers.is_empty() {
            return None;
        }
        let high = layers.iter().map(Layer::highest).fold(0.0, f64::max);
        let mut chart = self.chart(id, title, Axis::linear(high, Unit::Count), layers);
        chart.description = format!("{title} over time; {sums}.");
        Some(chart)
    }

    fn latency(
        &self,
        id: &'static str,
        title: &'static str,
        of: impl Fn(&SecondRow) -> &Quantiles + Copy,
        whole: &Option<Distribution>,
    ) -> Option<Chart> {
        let whole = whole.as_ref()?;
        // Percentiles cannot be averaged: a chunk shows its worst second.
        let worst = |pick: fn(&Quantiles) -> u64| {
            move |chunk: &[SecondRow]| {
                let seen = chunk.iter().map(of).filter(|seen| seen.count > 0);
                seen.map(|seen| pick(seen).max(1) as f64).reduce(f64::max)
            }
        };
        let layers = vec![
            self.layer(("max", "q4", Form::Line), worst(|seen| seen.max_us)),
            self.layer(("p99", "q3", Form::Line), worst(|seen| seen.p99_us)),
            self.layer(("p90", "q2", Form::Line), worst(|seen| seen.p90_us)),
            self.layer(("p50", "q1", Form::Line), worst(|seen| seen.p50_us)),
        ];
        let limit = self.p99_limit().filter(|_| id == "message-latency");
        let values = layers.iter().flat_map(|layer| &layer.points).filter_map(|point| point.value);
        let y = Axis::log(values.clone().chain(limit), Unit::Micros);
        let mut chart = self.chart(id, title, y, layers);
        chart.limit = limit;
        chart.description = format!(
            "{title} over time; for the whole run: p50 {}, p99 {}, maximum {}.",
            micros(whole.p50_us),
            micros(whole.p99_us),
            micros(whole.max_us),
        );
        Some(chart)
    }

    fn p99_limit(&self) -> Option<f64> {
        let mut checks = self.document.verdict.checks.iter();
        checks.find(|check| check.limit == "max-p99").map(|check| check.allowed as f64)
    }

    fn errors(&self) -> Option<Chart> {
        let kinds = self.document.errors.iter().zip(COLOURS.into_iter().cycle());
        let mut layers: Vec<_> = kinds
            .map(|(error, class)| {
                let of_kind = |second: &SecondRow| second.errors.get(&error.kind).copied();
                let value = rate(move |second| of_kind(second).unwrap_or(0));
                self.layer((error.kind.clone(), class, Form::Bars), value)
            })
            .collect();
        stack(&mut layers);
        let kinds: Vec<_> = self
            .document
            .errors
            .iter()
            .map(|error| format!("{} {}", count(error.count), error.kind))
            .collect();
        self.rates("errors", "Errors per second", layers, formatting::list(&kinds))
    }

    fn nodes(&self) -> Option<Chart> {
        let nodes = &self.document.nodes;
        let mut order: Vec<_> = (0..nodes.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(nodes[index].peak_connected));
        let rest = order.split_off(order.len().min(MAX_NODES));
        order.sort_by(|&a, &b| nodes[a].name.cmp(&nodes[b].name));
        let mut groups: Vec<_> =
            order.into_iter().map(|index| (nodes[index].name.clone(), vec![index])).collect();
        if !rest.is_empty() {
            let name = formatting::counted(rest.len() as u64, "other node", "other nodes");
            groups.push((name, rest));
        }
        let layers = groups.into_iter().zip(COLOURS).map(|((name, indices), class)| {
            let clients = |second: &SecondRow| -> u64 {
                indices.iter().filter_map(|&index| second.on_node.get(index)).sum()
            };
            let last = |chunk: &[SecondRow]| chunk.last().map(|second| clients(second) as f64);
            let mut layer = self.layer((name, class, Form::Area), last);
            layer.points.insert(0, START);
            layer
        });
        let mut layers: Vec<_> = layers.collect();
        stack(&mut layers);
        let each: Vec<_> = nodes
            .iter()
            .map(|node| {
                format!(
                    "{} had {}",
                    node.name,
                    formatting::counted(node.sessions, "session", "sessions")
                )
            })
            .collect();
        self.rates("nodes", "Sessions per node", layers, formatting::list(&each))
    }

    fn cpu(&self) -> Option<Chart> {
        let mut before = self.document.checkpoints.first().map_or(0, |first| cpu_us(&first.usage));
        let mut start = 0.0;
        let points = self.chunks.iter().filter_map(|chunk| {
            let last = chunk.last()?;
            let usage = cpu_us(&last.usage).saturating_sub(before) as f64;
            let percent = usage / 1e4 / (last.at_s - start).max(1e-3);
            (before, start) = (cpu_us(&last.usage), last.at_s);
            Some(Point { x: last.at_s, base: 0.0, value: Some(percent) })
        });
        let points: Vec<_> = points.collect();
        let name = "user and system time".to_owned();
        let layer = Layer { name, class: "s1", form: Form::Area, points };
        let most = layer.highest();
        let y = Axis::linear(most, Unit::Percent);
        let mut chart = self.chart("cpu", "CPU of the measured processes", y, vec![layer]);
        let most = formatting::number(most);
        chart.description = format!("CPU time over time; at most {most} % of one core.");
        (!self.document.processes.is_empty()).then_some(chart)
    }

    fn memory(&self) -> Option<Chart> {
        let pss = |chunk: &[SecondRow]| {
            chunk.iter().map(|second| pss_bytes(&second.usage)).reduce(f64::max)
        };
        let mut layer = self.layer(("proportional set size", "s2", Form::Area), pss);
        let before = self.document.checkpoints.first();
        layer.points.splice(
            ..0,
            before.map(|before| Point {
                x: before.at_s,
                base: 0.0,
                value: Some(pss_bytes(&before.usage)),
            }),
        );
        let most = layer.highest();
        let y = Axis::linear(most, Unit::Bytes);
        let mut chart = self.chart("memory", "Memory of the measured processes", y, vec![layer]);
        let most = formatting::bytes(most as u64);
        chart.description = format!("Proportional set size over time; at most {most}.");
        (!self.document.processes.is_empty()).then_some(chart)
    }
}

/// Latencies by percentile, one curve per kind.
fn curves(document: &Document) -> Option<Chart> {
    let latency = &document.latency;
    // If sessions end only with the run, their duration says nothing about the target.
    let session = latency.session.as_ref().filter(|_| document.scenario.count.is_some());
    let kinds = [
        ("message", "s1", latency.message.as_ref()),
        ("connect", "s2", latency.connect.as_ref()),
        ("broadcast", "s3", latency.broadcast.as_ref()),
        ("session", "s4", session),
    ];
    let seen: Vec<_> =
        kinds.into_iter().filter_map(|(name, class, seen)| Some((name, class, seen?))).collect();
    let most = seen.iter().map(|(_, _, seen)| seen.count).max()?;
    let layer = |&(name, class, seen): &(&str, &'static str, &Distribution)| Layer {
        name: name.to_owned(),
        class,
        form: Form::Line,
        points: curve(seen),
    };
    let layers: Vec<_> = seen.iter().map(layer).collect();
    let values = layers.iter().flat_map(|layer| &layer.points).filter_map(|point| point.value);
    let each: Vec<_> = seen
        .iter()
        .map(|(name, _, seen)| format!("p99 of {name}: {}", micros(seen.p99_us)))
        .collect();
    Some(Chart {
        id: "curves",
        title: "Latency by percentile",
        description: format!("Latency by percentile: {}.", formatting::list(&each)),
        x: Axis::quantiles(most),
        y: Axis::log(values.clone(), Unit::Micros),
        layers,
        shade: None,
        marks: Vec::new(),
        limit: None,
    })
}

/// The last step is the maximum. Its position follows from the number of values.
fn curve(seen: &Distribution) -> Vec<Point> {
    let end = (seen.count as f64).log10();
    let point = |step: &super::json::CurvePoint| Point {
        x: nines(step.quantile).min(end),
        base: 0.0,
        value: Some(step.value_us.max(1) as f64),
    };
    seen.curve.iter().map(point).collect()
}

fn rate(of: impl Fn(&SecondRow) -> u64) -> impl Fn(&[SecondRow]) -> Option<f64> {
    move |chunk| {
        let events: u64 = chunk.iter().map(&of).sum();
        let time: f64 = chunk.iter().map(|second| second.span_s).sum();
        Some(events as f64 / time.max(1e-3))
    }
}

fn cpu_us(usage: &[crate::cost::ProcessUsage]) -> u64 {
    usage.iter().map(|usage| usage.user_us + usage.system_us).sum()
}

fn pss_bytes(usage: &[crate::cost::ProcessUsage]) -> f64 {
    usage.iter().map(|usage| usage.pss_bytes as f64).sum()
}

/// Stacks each layer on the previous ones.
fn stack(layers: &mut [Layer]) {
    for upper in 1..layers.len() {
        let (below, above) = layers.split_at_mut(upper);
        for (point, under) in above[0].points.iter_mut().zip(&below[upper - 1].points) {
            point.base = under.top().unwrap_or(under.base);
        }
    }
}

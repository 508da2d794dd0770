//! Charts as SVG. Colors come from the style sheet of the page, by class; no scripts, no links.

use std::fmt::Write as _;

use super::axis::Axis;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 262.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 34.0;

/// Minimum distance of numbered marks; closer numbers are omitted.
const MARK_ROOM: f64 = 19.0;

/// One chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// Unique in the page.
    pub(super) id: &'static str,
    /// Title.
    pub(super) title: &'static str,
    /// Alternative text: a sentence with the important figures.
    pub(super) description: String,
    /// Horizontal axis.
    pub(super) x: Axis,
    /// Vertical axis.
    pub(super) y: Axis,
    /// Drawn on top of each other, in this order.
    pub(super) layers: Vec<Layer>,
    /// Highlighted range of the x axis.
    pub(super) shade: Option<(f64, f64)>,
    /// Numbered vertical lines.
    pub(super) marks: Vec<f64>,
    /// Upper limit on the y axis, drawn as a line.
    pub(super) limit: Option<f64>,
}

/// One series.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Name in the legend.
    pub(super) name: String,
    /// Class in the style sheet.
    pub(super) class: &'static str,
    /// How the series is drawn.
    pub(super) form: Form,
    /// Points, from left to right.
    pub(super) points: Vec<Point>,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A line, interrupted if a value is missing.
    Line,
    /// A line with the area below it, down to the base of each point.
    Area,
    /// A bar for each point, from its base, as wide as the distance to the previous point.
    Bars,
}

/// A value of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Position on the x axis.
    pub(super) x: f64,
    /// Sum of the series below, for stacked series; otherwise 0.
    pub(super) base: f64,
    /// Value above the base; `None` if missing.
    pub(super) value: Option<f64>,
}

impl Point {
    /// Position on the y axis.
    pub(super) fn top(&self) -> Option<f64> {
        self.value.map(|value| self.base + value)
    }
}

impl Layer {
    /// Maximum of all points.
    pub(super) fn highest(&self) -> f64 {
        self.points.iter().filter_map(Point::top).fold(0.0, f64::max)
    }
}

impl Chart {
    /// Returns the SVG element.
    pub(super) fn svg(&self) -> String {
        let id = self.id;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-labelledby=\"{id}-title {id}-desc\">\
             <title id=\"{id}-title\">{}</title><desc id=\"{id}-desc\">{}</desc>",
            escaped(self.title),
            escaped(&self.description),
        );
        self.draw_shade(&mut svg);
        self.draw_grid(&mut svg);
        for layer in &self.layers {
            match layer.form {
                Form::Line => self.draw_line(&mut svg, layer),
                Form::Area => self.draw_area(&mut svg, layer),
                Form::Bars => self.draw_bars(&mut svg, layer),
            }
        }
        self.draw_limit(&mut svg);
        self.draw_marks(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn draw_shade(&self, svg: &mut String) {
        let Some((from, to)) = self.shade else { return };
        let (left, right) = (self.x(from), self.x(to));
        put(
            svg,
            format_args!(
                "<rect class=\"shade\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                right - left,
                HEIGHT - TOP - BOTTOM,
            ),
        );
    }

    fn draw_grid(&self, svg: &mut String) {
        let right = WIDTH - RIGHT;
        for (value, name) in &self.y.ticks {
            let y = self.y(*value);
            put(
                svg,
                format_args!(
                    "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                 <text class=\"y\" x=\"{}\" y=\"{y:.1}\" dy=\".35em\">{}</text>",
                    LEFT - 8.0,
                    escaped(name),
                ),
            );
        }
        let bottom = HEIGHT - BOTTOM;
        for (value, name) in &self.x.ticks {
            let x = self.x(*value);
            put(
                svg,
                format_args!(
                    "<path class=\"tick\" d=\"M{x:.1} {bottom}v5\"/>\
                 <text class=\"x\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                    HEIGHT - 10.0,
                    escaped(name),
                ),
            );
        }
        put(svg, format_args!("<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>"));
    }

    fn draw_line(&self, svg: &mut String, layer: &Layer) {
        let mut path = String::new();
        let mut dots = String::new();
        let tops: Vec<_> = layer.points.iter().map(Point::top).collect();
        for (index, (point, top)) in layer.points.iter().zip(&tops).enumerate() {
            let Some(top) = *top else { continue };
            let (x, y) = (self.x(point.x), self.y(top));
            let before = index.checked_sub(1).and_then(|before| tops[before]).is_some();
            let after = tops.get(index + 1).copied().flatten().is_some();
            put(&mut path, format_args!("{}{x:.1} {y:.1}", if before { 'L' } else { 'M' }));
            if !before && !after {
                // A line with a single point would be invisible.
                put(&mut dots, format_args!("M{x:.1} {y:.1}h0"));
            }
        }
        put(svg, format_args!("<path class=\"line {}\" d=\"{path}{dots}\"/>", layer.class));
    }

    fn draw_area(&self, svg: &mut String, layer: &Layer) {
        let mut path = String::new();
        let known = || layer.points.iter().filter(|point| point.value.is_some());
        for (index, point) in known().enumerate() {
            let top = self.y(point.top().unwrap_or(point.base));
            let step = if index == 0 { 'M' } else { 'L' };
            put(&mut path, format_args!("{step}{:.1} {top:.1}", self.x(point.x)));
        }
        let outline = path.clone();
        for point in known().rev() {
            put(&mut path, format_args!("L{:.1} {:.1}", self.x(point.x), self.y(point.base)));
        }
        let class = layer.class;
        if !path.is_empty() {
            put(svg, format_args!("<path class=\"area {class}\" d=\"{path}Z\"/>"));
            put(svg, format_args!("<path class=\"line {class}\" d=\"{outline}\"/>"));
        }
    }

    fn draw_bars(&self, svg: &mut String, layer: &Layer) {
        let mut path = String::new();
        let mut left = self.x(0.0);
        for point in &layer.points {
            let right = self.x(point.x);
            if let Some(value) = point.value.filter(|&value| value > 0.0) {
                // A small gap between bars, if they are wide enough.
                let width = (right - left - 1.0).max((right - left) * 0.7).max(0.8);
                let (top, base) = (self.y(point.base + value), self.y(point.base));
                put(
                    &mut path,
                    format_args!("M{:.1} {base:.1}V{top:.1}h{width:.1}V{base:.1}Z", right - width,),
                );
            }
            left = right;
        }
        put(svg, format_args!("<path class=\"bars {}\" d=\"{path}\"/>", layer.class));
    }

    fn draw_limit(&self, svg: &mut String) {
        let Some(limit) = self.limit else { return };
        let y = self.y(limit);
        put(
            svg,
            format_args!("<path class=\"limit\" d=\"M{LEFT} {y:.1}H{:.1}\"/>", WIDTH - RIGHT,),
        );
    }

    fn draw_marks(&self, svg: &mut String) {
        let mut room = f64::NEG_INFINITY;
        for (index, &at) in self.marks.iter().enumerate() {
            let x = self.x(at);
            let bottom = HEIGHT - BOTTOM;
            put(svg, format_args!("<path class=\"mark\" d=\"M{x:.1} {TOP}V{bottom}\"/>"));
            if x < room {
                continue;
            }
            room = x + MARK_ROOM;
            put(
                svg,
                format_args!(
                    "<circle class=\"mark\" cx=\"{x:.1}\" cy=\"14\" r=\"9\"/>\
                 <text class=\"mark\" x=\"{x:.1}\" y=\"14\" dy=\".35em\">{}</text>",
                    index + 1,
                ),
            );
        }
    }
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("writing to a string cannot fail");
}

/// Escapes text and attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML cannot represent control characters.
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

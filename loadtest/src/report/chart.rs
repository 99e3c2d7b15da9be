//! Line charts as SVG: scales, ticks, grid, lines, marks. Colours are classes, so that the page's
//! style sheet decides them; what is drawn is decided in `figure`.

use std::fmt::Write;

/// In the units of the SVG, which are pixels where it is not shrunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Scale {
    Linear {
        from: f64,
        to: f64,
    },
    /// Both above 0.
    Log {
        from: f64,
        to: f64,
    },
}

impl Scale {
    /// From 0 at `from` to 1 at `to`; what lies outside is drawn at the edge.
    fn place(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear { from, to } => (value - from) / (to - from),
            Self::Log { from, to } => (value.max(from) / from).ln() / (to / from).ln(),
        };
        share.clamp(0.0, 1.0)
    }

    /// About `most` round values.
    fn ticks(self, most: usize) -> Vec<f64> {
        match self {
            Self::Linear { from, to } => linear_ticks(from, to, most),
            Self::Log { from, to } => log_ticks(from, to, most),
        }
    }
}

fn linear_ticks(from: f64, to: f64, most: usize) -> Vec<f64> {
    let raw = (to - from) / most as f64;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|&step| step >= raw * 0.999).unwrap_or(10.0 * power);
    let (first, last) = ((from / step).ceil() as i64, (to / step * 1.000_001).floor() as i64);
    (first..=last).map(|index| index as f64 * step).collect()
}

fn log_ticks(from: f64, to: f64, most: usize) -> Vec<f64> {
    let (first, last) = (from.log10().floor() as i32, to.log10().ceil() as i32);
    let within = |factors: &[f64], every: usize| -> Vec<f64> {
        let powers = (first..=last).step_by(every);
        let all = powers.flat_map(|p| factors.iter().map(move |f| f * 10_f64.powi(p)));
        all.filter(|v| *v >= from * 0.999 && *v <= to * 1.001).collect()
    };
    let choices = [within(&[1.0, 2.0, 5.0], 1), within(&[1.0, 3.0], 1), within(&[1.0], 1)];
    choices.into_iter().find(|ticks| ticks.len() <= most).unwrap_or_else(|| within(&[1.0], 2))
}

#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// With the unit.
    pub(super) title: &'static str,
    pub(super) scale: Scale,
    pub(super) label: fn(f64) -> String,
    /// Instead of round values.
    pub(super) fixed: Option<&'static [f64]>,
}

impl Axis {
    fn ticks(&self, most: usize) -> Vec<f64> {
        self.fixed.map_or_else(|| self.scale.ticks(most), <[f64]>::to_vec)
    }
}

/// Points of a line in the order they are joined; a gap ends one stretch.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) class: &'static str,
    pub(super) stretches: Vec<Vec<(f64, f64)>>,
}

impl Line {
    /// Nothing at a point leaves a gap there.
    pub(super) fn with_gaps(
        class: &'static str,
        points: impl IntoIterator<Item = (f64, Option<f64>)>,
    ) -> Self {
        let mut stretches = vec![Vec::new()];
        for (x, y) in points {
            match (y, stretches.last_mut()) {
                (Some(y), Some(stretch)) => stretch.push((x, y)),
                _ => stretches.push(Vec::new()),
            }
        }
        stretches.retain(|stretch| !stretch.is_empty());
        Self { class, stretches }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// For those who do not see the picture.
    pub(super) description: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// From the left edge to here.
    pub(super) shaded: Option<f64>,
    pub(super) lines: Vec<Line>,
    /// Circles on the chart.
    pub(super) marks: Vec<Mark>,
    /// Places on the x axis that deserve notice: small triangles at the top.
    pub(super) notices: Vec<f64>,
    /// Horizontal line.
    pub(super) limit: Option<f64>,
}

#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) class: &'static str,
    pub(super) at: (f64, f64),
    pub(super) hollow: bool,
}

const CHARACTER_WIDTH: f64 = 6.8;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;

/// The rectangle that the lines live in.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Chart {
    /// `class` goes to the SVG element.
    pub(super) fn svg(&self, class: &str, size: Size) -> String {
        let y_ticks = self.y.ticks(((size.height - TOP - BOTTOM) / 34.0) as usize);
        let labels: Vec<String> = y_ticks.iter().map(|&tick| (self.y.label)(tick)).collect();
        let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
        let frame = Frame {
            left: longest as f64 * CHARACTER_WIDTH + 12.0,
            right: size.width - 32.0,
            top: TOP,
            bottom: size.height - BOTTOM,
        };
        let mut svg = format!(
            "<svg class=\"{class}\" role=\"img\" viewBox=\"0 0 {} {}\" aria-label=\"{}\">\n",
            size.width,
            size.height,
            escaped(&self.description)
        );
        self.draw_shade(&mut svg, &frame);
        for (tick, label) in y_ticks.iter().zip(&labels) {
            let y = self.y_at(*tick, &frame);
            draw_line(&mut svg, "grid", (frame.left, y), (frame.right, y));
            draw_text(&mut svg, (frame.left - 6.0, y + 4.0), "end", "tick", label);
        }
        self.draw_x_axis(&mut svg, &frame);
        draw_text(&mut svg, (4.0, 14.0), "start", "title", self.y.title);
        let middle = f64::midpoint(frame.left, frame.right);
        draw_text(&mut svg, (middle, size.height - 6.0), "middle", "title", self.x.title);
        if let Some(limit) = self.limit {
            let y = self.y_at(limit, &frame);
            draw_line(&mut svg, "limit", (frame.left, y), (frame.right, y));
        }
        self.draw_data(&mut svg, &frame);
        svg.push_str("</svg>");
        svg
    }

    fn draw_shade(&self, svg: &mut String, frame: &Frame) {
        let Some(until) = self.shaded else { return };
        let width = self.x_at(until, frame) - frame.left;
        write_to(
            svg,
            format_args!(
                "<rect class=\"shade\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>\n",
                frame.left,
                frame.top,
                frame.bottom - frame.top
            ),
        );
    }

    fn draw_x_axis(&self, svg: &mut String, frame: &Frame) {
        draw_line(svg, "axis", (frame.left, frame.bottom), (frame.right, frame.bottom));
        let width = frame.right - frame.left;
        let mut free_from = f64::MIN;
        for tick in self.x.ticks((width / 50.0) as usize) {
            let x = self.x_at(tick, frame);
            draw_line(svg, "grid", (x, frame.top), (x, frame.bottom));
            let label = (self.x.label)(tick);
            let half = label.chars().count() as f64 * CHARACTER_WIDTH / 2.0;
            // A label that would touch the one before it is left out; its grid line says enough.
            if x - half > free_from {
                draw_text(svg, (x, frame.bottom + 17.0), "middle", "tick", &label);
                free_from = x + half + 4.0;
            }
        }
    }

    fn draw_data(&self, svg: &mut String, frame: &Frame) {
        for line in &self.lines {
            for stretch in &line.stretches {
                let place = |&(x, y): &(f64, f64)| {
                    format!("{:.1},{:.1}", self.x_at(x, frame), self.y_at(y, frame))
                };
                let mut points: Vec<String> = stretch.iter().map(place).collect();
                points.dedup();
                write_to(
                    svg,
                    format_args!(
                        "<polyline class=\"{}\" points=\"{}\"/>\n",
                        line.class,
                        points.join(" ")
                    ),
                );
            }
        }
        for mark in &self.marks {
            let (x, y) = (self.x_at(mark.at.0, frame), self.y_at(mark.at.1, frame));
            let hollow = if mark.hollow { " hollow" } else { "" };
            let class = mark.class;
            write_to(
                svg,
                format_args!(
                    "<circle class=\"mark {class}{hollow}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>\n"
                ),
            );
        }
        for &notice in &self.notices {
            let (x, y) = (self.x_at(notice, frame), frame.top);
            write_to(
                svg,
                format_args!("<path class=\"notice\" d=\"M{x:.1} {:.1}l-4.5 -8h9z\"/>\n", y + 8.0),
            );
        }
    }

    fn x_at(&self, value: f64, frame: &Frame) -> f64 {
        frame.left + self.x.scale.place(value) * (frame.right - frame.left)
    }

    fn y_at(&self, value: f64, frame: &Frame) -> f64 {
        frame.bottom - self.y.scale.place(value) * (frame.bottom - frame.top)
    }
}

fn draw_line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    write_to(
        svg,
        format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>\n",
            from.0, from.1, to.0, to.1
        ),
    );
}

fn draw_text(svg: &mut String, at: (f64, f64), anchor: &str, class: &str, text: &str) {
    write_to(
        svg,
        format_args!(
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
            at.0,
            at.1,
            escaped(text)
        ),
    );
}

fn write_to(svg: &mut String, content: std::fmt::Arguments<'_>) {
    svg.write_fmt(content).expect("a String takes all that is written");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ticks_are_round_and_within() {
        assert_eq!(linear_ticks(0.0, 60.0, 6), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(linear_ticks(0.0, 22_400.0, 5), [0.0, 5000.0, 10_000.0, 15_000.0, 20_000.0]);
    }

    #[test]
    fn log_ticks_grow_sparser_as_the_range_grows() {
        assert_eq!(log_ticks(100.0, 1000.0, 8), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(log_ticks(1.0, 1000.0, 5), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(log_ticks(1.0, 1e6, 4), [1.0, 100.0, 1e4, 1e6]);
    }

    #[test]
    fn values_outside_are_drawn_at_the_edge() {
        let scale = Scale::Log { from: 10.0, to: 1000.0 };
        assert_eq!([0.0, 10.0, 100.0, 1e9].map(|value| scale.place(value)), [0.0, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn a_missing_value_is_a_gap() {
        let line = Line::with_gaps("a", [(0.0, Some(1.0)), (1.0, None), (2.0, Some(3.0))]);
        assert_eq!(line.stretches, [vec![(0.0, 1.0)], vec![(2.0, 3.0)]]);
    }
}

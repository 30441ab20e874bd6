//! Lines over run time as SVG: axes from 0 to a round number, stages as bands, events as marks.
//!
//! Drawn once, without a script, so that it opens offline and prints. Colors are variables of the
//! page, which knows whether it is dark.

use std::fmt::Write as _;

use super::escaped;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 24.0;
/// Colors of the page's palette.
pub(super) const COLORS: usize = 8;

pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    /// Run time of each point's middle.
    pub(super) at_s: &'a [f64],
    pub(super) until_s: f64,
    pub(super) lines: Vec<Line>,
    pub(super) bands: &'a [Band],
    pub(super) marks: &'a [Mark],
    /// How a number of the axis is written.
    pub(super) unit: fn(f64) -> String,
}

pub(super) struct Line {
    pub(super) name: String,
    /// Of the palette.
    pub(super) color: usize,
    pub(super) values: Vec<Option<f64>>,
}

pub(super) struct Band {
    pub(super) name: String,
    pub(super) from_s: f64,
    pub(super) to_s: f64,
}

pub(super) struct Mark {
    pub(super) at_s: f64,
    pub(super) text: String,
}

impl Chart<'_> {
    pub(super) fn render(&self) -> String {
        let largest = self.lines.iter().flat_map(|line| &line.values).flatten().copied();
        let step = round_step(largest.fold(0.0, f64::max));
        let top = step * 4.0;
        let end_s = self.at_s.last().copied().unwrap_or(0.0).max(self.until_s).max(1.0);
        let x = |s: f64| LEFT + (s / end_s).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escaped(self.title),
            escaped(self.title)
        );
        for (n, band) in self.bands.iter().enumerate() {
            let (from, to) = (x(band.from_s), x(band.to_s.min(end_s)));
            let _ = write!(
                svg,
                "<rect class=\"band{}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
                n % 2,
                (to - from).max(0.0),
                HEIGHT - TOP - BOTTOM,
                escaped(&band.name)
            );
            // A name that does not fit over its band would lie over the next one's.
            if to - from > 7.0 * band.name.chars().count() as f64 {
                let _ = write!(
                    svg,
                    "<text class=\"stage\" x=\"{:.1}\" y=\"{}\">{}</text>",
                    (from + to) / 2.0,
                    TOP - 6.0,
                    escaped(&band.name)
                );
            }
        }
        for n in 0..=4 {
            let value = step * f64::from(n);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/><text class=\"y\" x=\"{2:.1}\" y=\"{3:.1}\">{4}</text>",
                WIDTH - RIGHT,
                y(value),
                LEFT - 6.0,
                y(value) + 3.5,
                escaped(&(self.unit)(value))
            );
        }
        for s in ticks(end_s) {
            let _ = write!(
                svg,
                "<text class=\"x\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x(s),
                HEIGHT - 8.0,
                clock(s)
            );
        }
        for mark in self.marks {
            let _ = write!(
                svg,
                "<line class=\"mark\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1:.1}\"><title>{2}</title></line>",
                x(mark.at_s),
                HEIGHT - BOTTOM,
                escaped(&mark.text)
            );
        }
        for line in &self.lines {
            self.draw(&mut svg, line, &x, &y);
        }
        svg.push_str("</svg><div class=\"legend\">");
        for line in &self.lines {
            let _ = write!(
                svg,
                "<span><i class=\"c{}\"></i>{}</span>",
                line.color % COLORS,
                escaped(&line.name)
            );
        }
        svg.push_str("</div></figure>\n");
        svg
    }

    /// A gap stays a gap; a lone point becomes a dot.
    fn draw(&self, svg: &mut String, line: &Line, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
        let color = line.color % COLORS;
        let (mut path, mut dots) = (String::new(), String::new());
        for (n, (at, value)) in self.at_s.iter().zip(&line.values).enumerate() {
            let Some(value) = value else { continue };
            let is_known =
                |n: Option<usize>| n.and_then(|n| line.values.get(n)).is_some_and(Option::is_some);
            let (before, after) = (is_known(n.checked_sub(1)), is_known(n.checked_add(1)));
            let (px, py) = (x(*at), y(*value));
            if !before && !after {
                let _ = write!(
                    dots,
                    "<circle class=\"f{color}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"1.8\"/>"
                );
            } else {
                let _ = write!(path, "{}{px:.1} {py:.1}", if before { 'L' } else { 'M' });
            }
        }
        if !path.is_empty() {
            let _ = write!(
                svg,
                "<path class=\"l{color}\" d=\"{path}\"><title>{}</title></path>",
                escaped(&line.name)
            );
        }
        svg.push_str(&dots);
    }
}

/// A quarter of an axis that reaches `largest`: 1, 2, 2.5 or 5 times a power of ten.
fn round_step(largest: f64) -> f64 {
    if largest <= 0.0 {
        return 0.25;
    }
    let power = 10f64.powf((largest / 4.0).log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|step| step * power * 4.0 >= largest);
    step.unwrap_or(10.0) * power
}

/// Five to ten round run times.
fn ticks(end_s: f64) -> Vec<f64> {
    const STEPS: [f64; 16] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0,
        7_200.0, 21_600.0, 86_400.0,
    ];
    let step = STEPS.into_iter().find(|step| end_s / step <= 10.0).unwrap_or(end_s / 10.0);
    let n = (end_s / step).floor() as usize;
    (0..=n).map(|n| n as f64 * step).collect()
}

/// `45s`, `12:30`, `1:02:30`.
fn clock(s: f64) -> String {
    let s = s.round() as u64;
    match (s / 3_600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number_above_the_largest_value() {
        for (largest, step) in
            [(0.0, 0.25), (3.9, 1.0), (99.0, 25.0), (101.0, 50.0), (4_000.0, 1_000.0)]
        {
            assert!(
                (round_step(largest) - step).abs() < 1e-9,
                "{largest}: {}",
                round_step(largest)
            );
            assert!(round_step(largest) * 4.0 >= largest);
        }
    }

    #[test]
    fn run_times_are_marked_at_round_places() {
        assert_eq!(ticks(12.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(ticks(3_600.0).len(), 7);
        assert_eq!([clock(45.0), clock(750.0), clock(3_750.0)], ["45s", "12:30", "1:02:30"]);
    }

    #[test]
    fn a_gap_in_the_values_is_a_gap_in_the_line() {
        let chart = Chart {
            title: "<t>",
            at_s: &[0.5, 1.5, 2.5, 3.5, 4.5],
            until_s: 5.0,
            lines: vec![Line {
                name: "<n>".into(),
                color: 9,
                values: vec![Some(1.0), Some(2.0), None, Some(4.0), None],
            }],
            bands: &[],
            marks: &[],
            unit: |value| value.to_string(),
        };
        let svg = chart.render();
        assert_eq!(svg.matches('M').count(), 1);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(!svg.contains("<n>") && !svg.contains("<t>"));
    }
}

//! Curves as SVG: one file, nothing from elsewhere, on a background of its own so that it can be read on any page.

use std::fmt::Write;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
/// Left, top, right and bottom of what is drawn in.
const EDGES: [f64; 4] = [64.0, 44.0, 24.0, 56.0];
const COLOURS: [&str; 4] = ["#2f6fd0", "#c2410c", "#15803d", "#7e22ce"];
/// Lines across.
const STEPS: usize = 4;

/// One pair of axes; several stand side by side.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    /// Equal steps to the right are equal factors.
    pub(crate) logarithmic: bool,
    pub(crate) curves: Vec<Curve>,
}

pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The whole drawing; `note` says where the figures are from.
pub(crate) fn svg(panels: &[Panel], note: &str) -> String {
    let (width, height) = (WIDTH * panels.len() as f64, HEIGHT + 22.0);
    let mut drawing = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\" fill=\"#1c2430\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (n, panel) in panels.iter().enumerate() {
        let at = n as f64 * WIDTH;
        drawing += &format!("<g transform=\"translate({at} 0)\">\n{}</g>\n", panel.drawn());
    }
    drawing
        + &format!(
            "<text x=\"16\" y=\"{}\" font-size=\"10\" fill=\"#5a6675\">{}</text>\n</svg>\n",
            height - 8.0,
            escape(note)
        )
}

impl Panel {
    fn drawn(&self) -> String {
        let [left, top, right, bottom] = EDGES;
        let (wide, high) = (WIDTH - left - right, HEIGHT - top - bottom);
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let scale = |x: f64| if self.logarithmic { x.max(f64::MIN_POSITIVE).ln() } else { x };
        let first = points().map(|(x, _)| scale(*x)).fold(f64::INFINITY, f64::min);
        let last = points().map(|(x, _)| scale(*x)).fold(f64::NEG_INFINITY, f64::max);
        let most = round_up(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let across = |x: f64| left + (scale(x) - first) / (last - first).max(f64::EPSILON) * wide;
        let up = |y: f64| top + high - y / most * high;

        let mut drawing = format!(
            "<text x=\"{left}\" y=\"22\" font-size=\"14\" font-weight=\"600\">{}</text>\n",
            escape(&self.title)
        );
        for step in 0..=STEPS {
            let value = most * step as f64 / STEPS as f64;
            let y = up(value);
            let _ = writeln!(
                drawing,
                "<path d=\"M{left} {y:.1}h{wide}\" stroke=\"#d8dee6\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 4.0,
                short(value)
            );
        }
        for x in self.marks() {
            let _ = writeln!(
                drawing,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                across(x),
                top + high + 16.0,
                short(x)
            );
        }
        let _ = writeln!(
            drawing,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n<text transform=\"translate(14 {}) rotate(-90)\" \
             text-anchor=\"middle\">{}</text>",
            left + wide / 2.0,
            HEIGHT - 20.0,
            escape(self.x),
            top + high / 2.0,
            escape(self.y)
        );
        for (n, curve) in self.curves.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let at: Vec<_> =
                curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y))).collect();
            let _ = writeln!(
                drawing,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                at.join(" ")
            );
            if curve.points.len() <= 20 {
                for (x, y) in &curve.points {
                    let _ = writeln!(
                        drawing,
                        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{}: {}</title></circle>",
                        across(*x),
                        up(*y),
                        short(*x),
                        short(*y)
                    );
                }
            }
            let _ = writeln!(
                drawing,
                "<text x=\"{:.1}\" y=\"{}\" fill=\"{colour}\" font-weight=\"600\">{}</text>",
                left + n as f64 * wide / self.curves.len() as f64,
                top - 6.0,
                escape(&curve.name)
            );
        }
        drawing
    }

    /// Where the axis below is marked: at each point where there are few.
    fn marks(&self) -> Vec<f64> {
        let mut all: Vec<_> = self.curves.iter().flat_map(|curve| &curve.points).map(|(x, _)| *x).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        if all.len() <= 8 {
            return all;
        }
        let last = round_up(all.last().copied().unwrap_or_default());
        let within = |x: &f64| *x <= all[all.len() - 1] * 1.001;
        (0..=6).map(|n| last * f64::from(n) / 6.0).filter(within).collect()
    }
}

/// The next number of one, two, three, five or six and zeros.
fn round_up(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    let factor =
        [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0].into_iter().find(|factor| factor * power >= most * 0.999);
    factor.unwrap_or(10.0) * power
}

fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", value / 1e6),
        _ if value >= 1e4 => format!("{}k", value / 1e3),
        _ => format!("{}", (value * 1e3).round() / 1e3),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

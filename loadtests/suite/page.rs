//! The report as a page: one file, nothing from elsewhere.

use super::{Outcome, Report, Seen};

/// Of a histogram: each is a quarter more than the one before it, from 0.1 ms on.
const BUCKETS: usize = 50;
const FIRST: f64 = 0.1;
const STEP: f64 = 1.25;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2430;background:#fff}\
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #d8dee6}\
td:first-child,th:first-child{text-align:left}pre{color:#5a6675;white-space:pre-wrap}svg{width:100%;height:auto}\
.over{color:#b3261e;font-weight:600}figure{margin:1.5rem 0}figcaption{font-weight:600}small{color:#5a6675;font-weight:400}\
@media(prefers-color-scheme:dark){body{background:#12161c;color:#e4e9f0}td,th{border-color:#2c3440}}";

pub(super) fn html(report: &Report) -> String {
    let rows: String = report.outcomes.iter().map(row).collect();
    let figures: String = report.outcomes.iter().map(figure).collect();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Tenantry under load</title><style>{STYLE}</style><h1>Tenantry under load</h1><pre>{head}</pre>\
         <table><thead><tr><th>scenario<th>1/s<th>asked<th>wrong<th>p50 ms<th>p90 ms<th>p99 ms<th>most ms<th>threshold of p99\
         <th>our CPU, ms each<th>Redis<th>PostgreSQL<th>the load's own</thead><tbody>{rows}</tbody></table>{figures}<h2>k6</h2><pre>{k6}</pre></html>\n",
        head = escape(&report.head),
        k6 = escape(&report.mixed.to_string()),
    )
}

fn row(outcome: &Outcome) -> String {
    let line = |(name, seen): (&str, &Seen)| {
        let mark = if outcome.holds() { "" } else { " class=\"over\"" };
        let times: String = seen.times.map(|time| format!("<td>{time:.2}")).concat();
        let cpu: String = seen.cpu.map(|cpu| format!("<td>{cpu:.3}")).concat();
        format!(
            "<tr{mark}><td>{}<td>{:.0}<td>{}<td>{}{times}<td>{}{cpu}</tr>",
            escape(name),
            outcome.rate,
            seen.asked,
            seen.wrong,
            outcome.threshold
        )
    };
    outcome.rows().map(line).collect()
}

/// How many took how long: both axes go by factors, since the few that took long are what matters.
fn figure(outcome: &Outcome) -> String {
    const WIDTH: f64 = 20.0;
    const HEIGHT: f64 = 120.0;
    let mut counts = [0_u32; BUCKETS];
    for time in &outcome.times {
        let bucket = ((time / FIRST).ln() / STEP.ln()).floor().max(0.0) as usize;
        counts[bucket.min(BUCKETS - 1)] += 1;
    }
    let most = f64::from(counts.iter().copied().max().unwrap_or_default() + 1).ln();
    let mut bars = String::new();
    for (n, count) in counts.iter().enumerate() {
        let height = f64::from(count + 1).ln() / most * HEIGHT;
        let (x, from) = (n as f64 * WIDTH, FIRST * STEP.powi(n as i32));
        bars += &format!(
            "<rect x=\"{x}\" y=\"{:.1}\" width=\"{}\" height=\"{height:.1}\" fill=\"#3b6fd4\"><title>{count} from {from:.2} ms on</title></rect>",
            HEIGHT - height,
            WIDTH - 2.0
        );
        if n % 5 == 0 {
            bars += &format!(
                "<text x=\"{x}\" y=\"{}\" font-size=\"13\" fill=\"currentColor\">{from:.3}</text>",
                HEIGHT + 18.0
            );
        }
    }
    format!(
        "<figure><figcaption>{} <small>{}{}{}; how many took how many milliseconds, both on logarithmic scales</small></figcaption>\
         <svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"latencies of {}\">{bars}</svg></figure>",
        escape(outcome.name),
        escape(outcome.what),
        if outcome.more.is_empty() { "" } else { "; " },
        escape(&outcome.more),
        BUCKETS as f64 * WIDTH,
        HEIGHT + 24.0,
        escape(outcome.name),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

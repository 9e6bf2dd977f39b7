//! The report as one page of HTML that needs nothing else.
//!
//! ```text
//! verdict │ timeline: writes per second, p99, faults as bands │ faults and proofs │ recovery
//! ```

use std::fmt::Write;

use super::chaos_report::{ChaosReport, FaultReport, Verdict};
use super::impact::RecoverySummary;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 180.0;
const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;\
    padding:0 1em;color:#1b1f24}table{border-collapse:collapse;width:100%}td,th{padding:.3em .6em;\
    border-bottom:1px solid #d8dee4;text-align:left;vertical-align:top}td.n,th.n{text-align:right;\
    font-variant-numeric:tabular-nums}.ok{color:#116329}.violated,.invalid{color:#a40e26}\
    svg{width:100%;height:auto;background:#f6f8fa}small{color:#57606a}";

/// Text that may stand between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The whole page.
pub fn page(report: &ChaosReport) -> String {
    let (name, about) = (escaped(&report.scenario.name), escaped(&report.scenario.about));
    let verdict = match report.verdict {
        Verdict::Ok => "ok",
        Verdict::Violated => "violated",
        Verdict::Invalid => "invalid",
    };
    let totals = &report.totals;
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}: {verdict}</title>\
         <style>{STYLE}</style></head><body>\n\
         <h1>{name}: <span class=\"{verdict}\">{verdict}</span></h1>\n<p>{about}</p>\n\
         <p>{} acknowledged writes, {} reads, {} failed, {} of unknown outcome; {} writes audited. \
         <small>polyraft {}, {} cores, {}, seed {}, {} nodes, election timeout {}</small></p>\n{}\n\
         <h2>Timeline</h2>\n{}\n{}\n<h2>Recovery</h2>\n{}\n<h2>Faults</h2>\n{}\n</body></html>\n",
        totals.acknowledged,
        totals.reads,
        totals.failed,
        totals.unknown,
        totals.audited,
        report.environment.version,
        report.environment.cores,
        escaped(&report.environment.system),
        report.environment.seed,
        report.scenario.cluster.nodes,
        humantime::format_duration(report.scenario.cluster.election_timeout),
        findings(report),
        chart(report, "acknowledged writes per second", "#0969da", |point| point.pace.per_second),
        chart(report, "p99 of acknowledged writes, ms", "#8250df", |point| point.pace.p99_ms),
        recoveries(report),
        faults(report),
    )
}

/// What is wrong, if anything.
fn findings(report: &ChaosReport) -> String {
    let violations = report.violations.iter().map(|v| format!("violated: {v}"));
    let unmet = report.unmet.iter().map(|unmet| format!("not met: {unmet}"));
    let unproven = report.unproven.iter().map(|fault| format!("not proven: {fault}"));
    let items: Vec<_> =
        violations.chain(unmet).chain(unproven).map(|line| escaped(&line)).collect();
    if items.is_empty() {
        return String::new();
    }
    format!("<ul class=\"violated\"><li>{}</li></ul>", items.join("</li>\n<li>"))
}

/// One curve over time, with the faults as bands behind it.
fn chart(
    report: &ChaosReport,
    title: &str,
    colour: &str,
    value: fn(&super::chaos_report::Point) -> f64,
) -> String {
    let duration = report.scenario.duration.as_secs_f64();
    let x = |seconds: f64| 40.0 + (WIDTH - 50.0) * seconds / duration;
    let top = report.timeline.iter().map(value).fold(1.0, f64::max);
    let y = |value: f64| HEIGHT - 20.0 - (HEIGHT - 40.0) * value / top;
    let mut curve = String::new();
    for point in &report.timeline {
        let _ = write!(curve, "{:.1},{:.1} ", x(point.at_s), y(value(point)));
    }
    let mut bands = String::new();
    for fault in &report.faults {
        let Some(began) = fault.record.began else { continue };
        let (from, to) =
            (x(began.as_secs_f64()), x(fault.record.ended.unwrap_or(began).as_secs_f64()));
        let (width, what) = ((to - from).max(1.5), escaped(&fault.record.what));
        let _ = write!(
            bands,
            "<rect x=\"{from:.1}\" y=\"20\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"#cf222e\" \
             opacity=\".25\"><title>{what}</title></rect>",
            HEIGHT - 40.0
        );
    }
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\" \
         font-size=\"11\">{bands}<polyline points=\"{curve}\" fill=\"none\" stroke=\"{colour}\" \
         stroke-width=\"1.5\"/><text x=\"40\" y=\"14\">{title}; faults in red</text>\
         <text x=\"2\" y=\"{:.1}\">{top:.0}</text><text x=\"2\" y=\"{:.1}\">0</text>\
         <text x=\"40\" y=\"{HEIGHT}\" dy=\"-4\">0 s</text>\
         <text x=\"{WIDTH}\" y=\"{HEIGHT}\" dy=\"-4\" text-anchor=\"end\">{duration:.0} s</text></svg>",
        y(top) + 4.0,
        y(0.0)
    )
}

fn recoveries(report: &ChaosReport) -> String {
    let mut rows = String::new();
    let kinds = report.recovery_by_kind.iter().map(|(kind, summary)| (kind.as_str(), summary));
    let all = [("all that were hit", &report.recovery), ("others", &report.others_recovery)];
    for (what, summary) in kinds.chain(all) {
        rows += &recovery_row(what, summary);
    }
    format!(
        "<p>Seconds from a fault to the next acknowledged write of each keyspace; from its end where it \
         left no majority.</p>\n<table><tr><th>fault</th><th class=\"n\">keyspaces</th>\
         <th class=\"n\">never</th><th class=\"n\">p50</th><th class=\"n\">p99</th>\
         <th class=\"n\">max</th></tr>\n{rows}</table>"
    )
}

fn recovery_row(what: &str, summary: &RecoverySummary) -> String {
    let mut row = format!("<tr><td>{}</td>", escaped(what));
    for count in [summary.count, summary.never] {
        let _ = write!(row, "<td class=\"n\">{count}</td>");
    }
    for duration in [summary.p50, summary.p99, summary.max] {
        let _ = write!(row, "<td class=\"n\">{:.3}</td>", duration.as_secs_f64());
    }
    row + "</tr>\n"
}

fn faults(report: &ChaosReport) -> String {
    let rows: String = report.faults.iter().map(fault_row).collect();
    format!(
        "<table><tr><th>fault</th><th>from, to</th><th>nodes</th><th>proof</th>\
         <th class=\"n\">writes/s before, during, after: hit</th>\
         <th class=\"n\">others</th></tr>\n{rows}</table>"
    )
}

fn fault_row(fault: &FaultReport) -> String {
    let record = &fault.record;
    let seconds = |time: Option<std::time::Duration>| {
        time.map_or_else(|| "–".to_owned(), |time| format!("{:.2}", time.as_secs_f64()))
    };
    let proofs: Vec<_> = record.proofs.iter().map(|proof| escaped(&proof.seen)).collect();
    let (class, mark) = if fault.is_proven { ("ok", "proven") } else { ("invalid", "not proven") };
    let nodes: Vec<_> = record.nodes.iter().map(u64::to_string).collect();
    let pace = |around: super::impact::Around| {
        let [before, during, after] = [around.before, around.during, around.after];
        format!("{:.0}, {:.0}, {:.0}", before.per_second, during.per_second, after.per_second)
    };
    let [hit, others] = match &fault.impact {
        Some(impact) => [pace(impact.hit), pace(impact.others)],
        None => [String::new(), String::new()],
    };
    format!(
        "<tr><td>{}</td><td>{}, {}</td><td>{}</td><td><span class=\"{class}\">{mark}</span> \
         <small>{}{}</small></td><td class=\"n\">{hit}</td><td class=\"n\">{others}</td></tr>\n",
        escaped(&record.what),
        seconds(record.began),
        seconds(record.ended),
        nodes.join(", "),
        escaped(record.problem.as_deref().unwrap_or_default()),
        proofs.join("<br>"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::chaos_report::tests::report;
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_quotes_what_it_shows() {
        let page = page(&report("recovery_p99 = \"1s\"", true, vec![]));
        for part in ["<h1>sample: <span class=\"violated\">", "process &lt;kill9&gt;", "2.010"] {
            assert!(page.contains(part), "{part}");
        }
        assert!(page.contains("died of SIGKILL") && page.contains("not met: recovery_p99"));
        for foreign in ["<script", "http:", "https:", "<link", "<kill9>", "NaN", "inf"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("<rect").count(), 2, "the fault is marked in both charts");
    }
}

//! Goal: dashboards, rules and runbooks speak of what a node exports, and of each other, rightly
//! (OB-3, OB-4).
//! Method: read what is below `grafana/` and compare it with the metric catalogue: a name that the
//! catalogue lacks fails, as does a family that nobody looks at. Dashboards are rendered from the
//! text beside them and compared with what is committed; `UPDATE_DOCS=1` writes them.
//! Not here: PromQL and Grafana's types (`grafana/check.sh`), and whether queries answer and alerts
//! fire on a live cluster.

#[path = "monitoring/dashboards.rs"]
mod dashboards;
#[path = "monitoring/promql.rs"]
mod promql;
#[path = "monitoring/rules.rs"]
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dashboards::Dashboard;
use polyraft_actors::metric_catalogue::METRICS;
use rules::{Alert, Recording};
use serde_json::Value;

const RUNBOOKS: &str = "https://runbooks.example/polyraft/";

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana")
}

/// The files of a folder with one extension: name without it, and text.
fn files(folder: &str, extension: &str) -> BTreeMap<String, String> {
    let entries = grafana().join(folder).read_dir().expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("the folder is readable").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|e| e == extension));
    let named = |path: PathBuf| {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("the file is text"))
    };
    paths.map(named).collect()
}

fn alerts() -> Vec<Alert> {
    rules::alerts(&files("rules", "yml")["polyraft-alerts"])
}

fn recordings() -> Vec<Recording> {
    rules::recordings(&files("rules", "yml")["polyraft-recording"])
}

fn sources() -> BTreeMap<String, Dashboard> {
    let parse = |(name, text): (String, String)| {
        let dashboard =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{name}.toml: {error}"));
        (name, dashboard)
    };
    files("dashboards", "toml").into_iter().map(parse).collect()
}

/// The dashboards as Grafana loads them.
fn rendered() -> BTreeMap<String, Value> {
    let parse = |(name, text): (String, String)| {
        let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}.json: {e}"));
        (name, value)
    };
    files("dashboards", "json").into_iter().map(parse).collect()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.unwrap_or_else(|| panic!("{pointer} is missing"))
}

/// Every expression of panels and annotations, with where it is.
fn dashboard_expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, dashboard) in rendered() {
        for panel in list(&dashboard, "/panels") {
            let place = format!("{name}.json, {}", panel["title"]);
            for target in list(panel, "/targets") {
                found.push((place.clone(), target["expr"].as_str().expect("a text").to_owned()));
            }
        }
        for annotation in list(&dashboard, "/annotations/list") {
            let expr = annotation["target"]["expr"].as_str().expect("a text");
            found.push((format!("{name}.json, annotation"), expr.to_owned()));
        }
    }
    found
}

/// Every expression of a rule, with the rule's name.
fn rule_expressions() -> Vec<(String, String)> {
    let alerts = alerts().into_iter().map(|alert| (alert.name, alert.expr));
    alerts.chain(recordings().into_iter().map(|rule| (rule.name, rule.expr))).collect()
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} finding(s):\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn the_dashboards_are_what_their_texts_render() {
    let alerts = alerts();
    let rewrite = std::env::var_os("UPDATE_DOCS").is_some();
    for (name, dashboard) in sources() {
        let path = grafana().join(format!("dashboards/{name}.json"));
        let now = dashboard.render(&name, &alerts);
        if rewrite {
            fs::write(&path, &now).expect("the folder is writable");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == now, "{name}.json is old: UPDATE_DOCS=1 cargo test --test monitoring");
    }
    assert!(rendered().keys().eq(sources().keys()), "a dashboard without its text");
}

#[test]
fn every_name_in_dashboards_rules_and_runbooks_is_in_the_catalogue() {
    let mut findings = Vec::new();
    let rule_names: BTreeSet<_> = recordings().into_iter().map(|rule| rule.name).collect();
    for (place, expr) in dashboard_expressions().into_iter().chain(rule_expressions()) {
        let unknown =
            promql::metrics(&expr).into_iter().filter(|name| promql::family(name).is_none());
        findings.extend(unknown.map(|name| format!("{place}: {name}")));
        let unknown =
            promql::recordings(&expr).into_iter().filter(|name| !rule_names.contains(*name));
        findings.extend(unknown.map(|name| format!("{place}: {name}")));
    }
    for (name, text) in files("runbooks", "md") {
        // Prose names a histogram without suffix.
        let is_known =
            |n: &&str| promql::family(n).is_some() || METRICS.iter().any(|m| m.name == *n);
        let unknown = promql::metrics(&text).into_iter().filter(|name| !is_known(name));
        findings.extend(unknown.map(|metric| format!("{name}.md: {metric}")));
    }
    assert_none(&findings);
}

#[test]
fn every_family_is_on_a_panel_and_every_recording_rule_is_used() {
    let panels = dashboard_expressions();
    let recordings = recordings();
    // A panel that shows a recording rule shows what the rule is made of.
    let shown = panels.iter().flat_map(|(_, expr)| {
        let rules = promql::recordings(expr).into_iter();
        let rules = rules.filter_map(|name| recordings.iter().find(|rule| rule.name == name));
        std::iter::once(expr.as_str()).chain(rules.map(|rule| rule.expr.as_str()))
    });
    let shown: BTreeSet<_> = shown.flat_map(promql::metrics).filter_map(promql::family).collect();
    let unseen = METRICS.iter().filter(|metric| !shown.contains(metric.name));
    let mut findings: Vec<_> = unseen.map(|m| format!("{} is on no panel", m.name)).collect();
    let expressions: Vec<_> = panels.into_iter().chain(rule_expressions()).collect();
    let is_used = |rule: &&Recording| {
        expressions.iter().any(|(_, expr)| promql::recordings(expr).contains(&rule.name.as_str()))
    };
    let unused = recordings.iter().filter(|rule| !is_used(rule));
    findings.extend(unused.map(|rule| format!("{} is used by nobody", rule.name)));
    assert_none(&findings);
}

#[test]
fn every_alert_has_its_words_its_runbook_and_its_tests() {
    let runbooks = files("runbooks", "md");
    let (mut fires, mut stays) = (Vec::new(), Vec::new());
    for text in files("rules/tests", "yml").values() {
        let (firing, quiet) = rules::promtool_tests(text);
        fires.extend(firing);
        stays.extend(quiet);
    }
    let mut findings = Vec::new();
    let mut require = |holds: bool, alert: &Alert, what: &str| {
        if !holds {
            findings.push(format!("{}: {what}", alert.name));
        }
    };
    let alerts = alerts();
    for alert in &alerts {
        let Alert { name, severity, summary, description, runbook_url, .. } = alert;
        require(matches!(severity.as_str(), "warning" | "critical"), alert, "severity");
        require(summary.len() > 10 && description.len() > 20, alert, "says too little");
        require(*runbook_url == format!("{RUNBOOKS}{name}.md"), alert, "another runbook's address");
        require(alert.threshold().is_some(), alert, "compares with no number");
        require(fires.contains(name), alert, "no promtool test in which it fires");
        require(stays.contains(name), alert, "no promtool test in which it does not fire");
        let headings = ["## What it means", "## What to look at", "## What to do"];
        let book = runbooks.get(name).map(String::as_str).unwrap_or_default();
        require(headings.iter().all(|h| book.contains(h)), alert, "runbook lacks a part");
    }
    let names: BTreeSet<_> = alerts.iter().map(|alert| &alert.name).collect();
    assert_eq!(names.len(), alerts.len(), "an alert is there twice");
    findings.extend(
        runbooks.keys().filter(|n| !names.contains(n)).map(|n| format!("{n}.md: no alert")),
    );
    assert_none(&findings);
}

#[test]
fn every_alert_is_on_a_panel_with_its_value_and_its_runbook() {
    let mut findings = Vec::new();
    let panels: Vec<_> =
        rendered().into_values().flat_map(|d| list(&d, "/panels").to_vec()).collect();
    for alert in alerts() {
        let is_linked = |panel: &&Value| {
            list(panel, "/links").iter().any(|link| link["url"] == alert.runbook_url.as_str())
        };
        let linked: Vec<_> = panels.iter().filter(is_linked).collect();
        let value = alert.threshold().expect("every alert has one").value();
        for panel in &linked {
            let steps = list(panel, "/fieldConfig/defaults/thresholds/steps");
            if !steps.iter().any(|step| step["value"].as_f64() == Some(value)) {
                findings.push(format!("{}: {} has no step at {value}", alert.name, panel["title"]));
            }
        }
        if linked.is_empty() {
            findings.push(format!("{}: no panel links to its runbook", alert.name));
        }
    }
    assert_none(&findings);
}

/// Goal: a runbook sends nobody to a panel that is not there. Method: what is set in italics is the
/// title of a dashboard or a panel, and each panel that links to a runbook is named by it.
#[test]
fn runbooks_name_panels_that_exist() {
    let dashboards = rendered();
    let panels: Vec<_> = dashboards.values().flat_map(|d| list(d, "/panels")).collect();
    let titles: BTreeSet<_> =
        panels.iter().map(|panel| panel["title"].as_str().expect("text")).collect();
    let texts = sources();
    let dashboards: BTreeSet<_> = texts.values().map(|d| d.title.as_str()).collect();
    let mut findings = Vec::new();
    for (name, text) in files("runbooks", "md") {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let italics: BTreeSet<_> = text.split('*').skip(1).step_by(2).collect();
        let unknown = italics.iter().filter(|i| !titles.contains(**i) && !dashboards.contains(**i));
        findings.extend(unknown.map(|title| format!("{name}.md: nothing is called {title}")));
        let url = format!("{RUNBOOKS}{name}.md");
        let links =
            panels.iter().filter(|p| list(p, "/links").iter().any(|l| l["url"] == url.as_str()));
        let unnamed = links.filter(|p| !italics.contains(p["title"].as_str().expect("text")));
        findings.extend(unnamed.map(|p| format!("{name}.md does not name {}", p["title"])));
    }
    assert_none(&findings);
}

#[test]
fn dashboards_have_unique_ids_and_the_same_variables() {
    let dashboards = rendered();
    let uids: BTreeSet<_> = dashboards.values().map(|d| d["uid"].to_string()).collect();
    assert_eq!(uids.len(), dashboards.len(), "{uids:?}");
    for (name, dashboard) in &dashboards {
        let names = |pointer: &str, field: &str| -> Vec<String> {
            list(dashboard, pointer).iter().map(|v| v[field].to_string()).collect()
        };
        let variables = names("/templating/list", "name");
        assert_eq!(variables, [r#""datasource""#, r#""cluster""#, r#""node""#], "{name}");
        for field in ["id", "title"] {
            let all = names("/panels", field);
            let unique: BTreeSet<_> = all.iter().collect();
            assert_eq!(unique.len(), all.len(), "{name}: a panel's {field} is there twice");
        }
        for panel in list(dashboard, "/panels") {
            let said = panel["description"].as_str().is_some_and(|d| d.len() > 20);
            let unit = panel.pointer("/fieldConfig/defaults/unit").and_then(Value::as_str);
            assert!(said && unit.is_some_and(|u| !u.is_empty()), "{name}: {}", panel["title"]);
            assert!(!list(panel, "/targets").is_empty(), "{name}: {}", panel["title"]);
        }
    }
}

#[test]
fn the_pipeline_is_shown_in_the_order_in_which_proposals_pass_it() {
    let titles: Vec<_> =
        sources()["pipeline"].panel.iter().map(|p| p.title.to_lowercase()).collect();
    let stages = ["proposed", "submitted", "persisted", "committed", "applied"];
    let place = |stage: &str| titles.iter().position(|title| title.contains(stage));
    let places: Vec<_> = stages.iter().map(|s| place(s).unwrap_or_else(|| panic!("{s}"))).collect();
    assert!(places.is_sorted(), "{titles:?}");
}

/// Negative controls: a check that finds nothing in a bad sample checks nothing.
mod bad_samples {
    use super::*;

    const RULES: &str = "
groups:
  - name: sample
    rules:
      - record: node:polyraft_log_commit_bytes:rate5m
        expr: rate(polyraft_log_commit_bytes_total[5m])
      - alert: Sample
        expr: max by (node) (a > 3) and (b / c) < 0.5
        labels: {severity: critical}
        annotations: {summary: s, description: d, runbook_url: u}
";

    #[test]
    fn rules_are_told_apart_and_the_last_comparison_decides() {
        let alerts = rules::alerts(RULES);
        assert_eq!(alerts.len(), 1);
        assert_eq!(alerts[0].threshold(), Some(rules::Threshold::Below(0.5)));
        let recordings = rules::recordings(RULES);
        assert_eq!(promql::recordings(&recordings[0].name), [recordings[0].name.as_str()]);
        assert!(rules::alerts("groups: []").is_empty());
    }

    #[test]
    fn names_that_do_not_exist_are_not_families() {
        let histogram = "polyraft_log_commit_duration_seconds";
        for name in ["_bucket", "_sum", "_count"].map(|end| format!("{histogram}{end}")) {
            assert_eq!(promql::family(&name), Some(histogram), "{name}");
        }
        for bad in [histogram, "polyraft_log_commit_bytes_total_bucket", "polyraft_nonsense"] {
            assert_eq!(promql::family(bad), None, "{bad}");
        }
        let expr = "rate(polyraft_x_total{a=\"b\"}[5m]) / cluster:polyraft_y:sum";
        assert_eq!(promql::metrics(expr), ["polyraft_x_total"]);
        assert_eq!(promql::recordings(expr), ["cluster:polyraft_y:sum"]);
    }

    #[test]
    fn a_panel_takes_its_thresholds_from_its_alerts() {
        let panel = "[[panel]]\ntitle = \"t\"\nabout = \"a\"\nunit = \"s\"\n\
                     alerts = [\"Sample\"]\nqueries = [[\"l\", \"x{@, lane=\\\"append\\\"}\"]]";
        let text = format!("title = \"t\"\nabout = \"a\"\n{panel}");
        let dashboard: Dashboard = toml::from_str(&text).expect("it is complete");
        let rendered: Value =
            serde_json::from_str(&dashboard.render("sample", &rules::alerts(RULES))).expect("JSON");
        let panel = &list(&rendered, "/panels")[0];
        let steps = list(panel, "/fieldConfig/defaults/thresholds/steps");
        let steps: Vec<_> =
            steps.iter().map(|s| (s["value"].as_f64(), s["color"].as_str())).collect();
        assert_eq!(steps, [(None, Some("red")), (Some(0.5), Some("green"))]);
        let expr = r#"x{cluster=~"$cluster", node=~"$node", lane="append"}"#;
        assert_eq!(panel["targets"][0]["expr"], expr);
    }
}

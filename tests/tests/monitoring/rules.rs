//! The rules that Prometheus loads, as the checks see them.
//!
//! ```text
//! grafana/rules/*.yml ─read→ Alert { name, expr, threshold … }, Recording { name, expr }
//! ```
//!
//! Promise: a rule that lacks what the checks need fails by name. Not here: whether an expression is
//! PromQL, which `promtool` judges in `grafana/check.sh`.

use yaml_rust2::{Yaml, YamlLoader};

/// An alerting rule.
#[derive(Debug, Clone)]
pub struct Alert {
    pub name: String,
    pub expr: String,
    /// `warning` or `critical`.
    pub severity: String,
    pub summary: String,
    pub description: String,
    pub runbook_url: String,
}

/// A recording rule.
#[derive(Debug, Clone)]
pub struct Recording {
    pub name: String,
    pub expr: String,
}

/// On which side of a value an alert is, and the value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// It fires from here on.
    Above(f64),
    /// It fires below this.
    Below(f64),
}

impl Threshold {
    /// The value.
    pub fn value(self) -> f64 {
        let (Self::Above(value) | Self::Below(value)) = self;
        value
    }

    /// Whether the alert fires at `at`.
    pub fn is_passed(self, at: f64) -> bool {
        match self {
            Self::Above(value) => at >= value,
            Self::Below(value) => at < value,
        }
    }
}

impl Alert {
    /// The last comparison with a number in the expression: by convention the one that decides.
    pub fn threshold(&self) -> Option<Threshold> {
        let words: Vec<_> = self.expr.split_whitespace().collect();
        words.windows(2).rev().find_map(|pair| {
            let value = pair[1].trim_end_matches(')').parse().ok()?;
            match pair[0] {
                ">" | ">=" => Some(Threshold::Above(value)),
                "<" | "<=" => Some(Threshold::Below(value)),
                _ => None,
            }
        })
    }
}

/// The alerts of a rule file.
pub fn alerts(text: &str) -> Vec<Alert> {
    let rules = rules(text);
    let alerts = rules.iter().filter(|rule| !rule["alert"].is_badvalue());
    let read = |rule: &Yaml| Alert {
        name: field(rule, "alert"),
        expr: field(rule, "expr"),
        severity: field(&rule["labels"], "severity"),
        summary: field(&rule["annotations"], "summary"),
        description: field(&rule["annotations"], "description"),
        runbook_url: field(&rule["annotations"], "runbook_url"),
    };
    alerts.map(read).collect()
}

/// The recording rules of a rule file.
pub fn recordings(text: &str) -> Vec<Recording> {
    let rules = rules(text);
    let recordings = rules.iter().filter(|rule| !rule["record"].is_badvalue());
    recordings
        .map(|rule| Recording { name: field(rule, "record"), expr: field(rule, "expr") })
        .collect()
}

/// What `promtool` tests of the alerts: their names, once for each time that one is seen to fire, and
/// once for each time that one is seen not to.
pub fn promtool_tests(text: &str) -> (Vec<String>, Vec<String>) {
    let document = load(text);
    let (mut fires, mut stays) = (Vec::new(), Vec::new());
    for test in list(&document["tests"]) {
        for seen in list(&test["alert_rule_test"]) {
            let is_firing = seen["exp_alerts"].as_vec().is_some_and(|alerts| !alerts.is_empty());
            let names = if is_firing { &mut fires } else { &mut stays };
            names.push(field(seen, "alertname"));
        }
    }
    (fires, stays)
}

fn rules(text: &str) -> Vec<Yaml> {
    let groups = load(text)["groups"].clone();
    list(&groups).iter().flat_map(|group| list(&group["rules"]).to_vec()).collect()
}

fn load(text: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(text).expect("rule files are YAML");
    documents.pop().expect("one document")
}

fn list(yaml: &Yaml) -> &[Yaml] {
    yaml.as_vec().map_or(&[], Vec::as_slice)
}

fn field(yaml: &Yaml, key: &str) -> String {
    let text = yaml[key].as_str().unwrap_or_else(|| panic!("{key} is missing in {yaml:?}"));
    text.trim().to_owned()
}

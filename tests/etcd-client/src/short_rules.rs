//! Rules whose waits are shortened, so that a proof takes minutes and not hours.
//!
//! ```text
//! rules/*.yml ─prometheus reads→ /api/v1/rules ─÷ factor→ JSON, which is YAML ─→ prometheus
//! [5m], offset 1h, for: 15m      normalised               [10s], offset 2m, for: 30s
//! ```
//!
//! Promise: nothing but durations changes: windows of ranges, offsets and steps of subqueries, `for` and
//! `keep_firing_for`. No window gets shorter than some scrapes. Thresholds stay as they are.
//! Source: Prometheus, "Recording rules", "Querying basics".

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// A window holds some scrapes, also when a busy machine misses one or two.
const WINDOW_MIN: Duration = Duration::from_secs(6);

/// The rules of every file, as Prometheus tells them.
#[derive(Debug, Clone, Deserialize)]
pub struct Rules {
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Deserialize)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    query: String,
    #[serde(default)]
    duration: f64,
    #[serde(default)]
    keep_firing_for: f64,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Rules {
    /// The names of the alerts, in their order.
    pub fn alerts(&self) -> Vec<String> {
        let rules = self.groups.iter().flat_map(|group| &group.rules);
        rules.filter(|rule| rule.kind == "alerting").map(|rule| rule.name.clone()).collect()
    }

    /// The same rules with every duration divided by `factor`, as a file of rules.
    pub fn shortened(&self, factor: f64) -> String {
        let groups = self.groups.iter().map(|Group { name, rules }| {
            let rules: Vec<_> = rules.iter().map(|rule| rule.shortened(factor)).collect();
            // Two files may have a group of the same name; the first rule tells them apart.
            let first = rules.first().map_or("", |r| r["expr"].as_str().unwrap_or_default());
            json!({ "name": format!("{name}: {first}"), "rules": rules })
        });
        json!({ "groups": groups.collect::<Vec<_>>() }).to_string()
    }
}

impl Rule {
    fn shortened(&self, factor: f64) -> Value {
        let expression = shorten_windows(&self.query, factor);
        if self.kind != "alerting" {
            return json!({ "record": self.name, "expr": expression, "labels": self.labels });
        }
        json!({
            "alert": self.name,
            "expr": expression,
            "for": milliseconds(self.duration / factor),
            "keep_firing_for": milliseconds(self.keep_firing_for / factor),
            "labels": self.labels,
            "annotations": self.annotations,
        })
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{}ms", (seconds * 1_000.0).round() as u64)
}

/// Divides the durations in an expression; what stands in quotes is left alone.
pub fn shorten_windows(expression: &str, factor: f64) -> String {
    let (mut result, mut rest) = (String::new(), expression);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' | '`' => quoted_len(rest, first),
            '[' => rest.find(']').map_or(rest.len(), |at| at + 1),
            _ if first.is_ascii_alphabetic() || first == '_' => word_len(rest),
            _ => first.len_utf8(),
        };
        let (part, behind) = rest.split_at(length);
        rest = behind;
        match first {
            '[' => result.push_str(&shorten_range(part, factor)),
            _ if part == "offset" => {
                let spaces = rest.len() - rest.trim_start_matches([' ', '-']).len();
                let (between, behind) = rest.split_at(spaces);
                let end = word_len(behind);
                result.push_str(part);
                result.push_str(between);
                result.push_str(&shorten(&behind[..end], factor, Duration::ZERO));
                rest = &behind[end..];
            }
            _ => result.push_str(part),
        }
    }
    result
}

/// `[5m]`, or `[1h:1m]`, whose second part is a step.
fn shorten_range(range: &str, factor: f64) -> String {
    let inner = range.trim_start_matches('[').trim_end_matches(']');
    match inner.split_once(':') {
        None => format!("[{}]", shorten(inner, factor, WINDOW_MIN)),
        Some((window, step)) => {
            let window = shorten(window, factor, WINDOW_MIN);
            format!("[{window}:{}]", shorten(step, factor, Duration::from_secs(1)))
        }
    }
}

fn shorten(duration: &str, factor: f64, least: Duration) -> String {
    match parse(duration.trim()) {
        Some(whole) if whole > least => {
            milliseconds((whole.as_secs_f64() / factor).max(least.as_secs_f64()))
        }
        _ => duration.to_owned(),
    }
}

/// A duration as Prometheus writes it: `1h30m`, `500ms`.
fn parse(text: &str) -> Option<Duration> {
    let (mut whole, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let milliseconds = match &rest[..unit_len] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            "y" => 31_536_000_000,
            _ => return None,
        };
        whole += Duration::from_millis(number.checked_mul(milliseconds)?);
        rest = &rest[unit_len..];
    }
    (!text.is_empty()).then_some(whole)
}

/// How long the text in quotes is that `text` begins with.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, found) in text.char_indices().skip(1) {
        if found == quote && !is_escaped {
            return at + 1;
        }
        is_escaped = found == '\\' && !is_escaped;
    }
    text.len()
}

fn word_len(text: &str) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_durations_get_shorter() {
        let shortened = |expression: &str| shorten_windows(expression, 30.0);
        assert_eq!(shortened("rate(x{a=~\"[5m]\"}[5m]) > 5"), "rate(x{a=~\"[5m]\"}[10000ms]) > 5");
        assert_eq!(shortened("x offset 1h"), "x offset 120000ms");
        assert_eq!(shortened("x offset -1h"), "x offset -120000ms");
        assert_eq!(shortened("max_over_time(x[1d:1h])"), "max_over_time(x[2880000ms:120000ms])");
        assert_eq!(
            shortened("a_offset{b='\\'[1h]'} / job:x:rate5m"),
            "a_offset{b='\\'[1h]'} / job:x:rate5m"
        );
        // A window holds some scrapes.
        assert_eq!(shortened("rate(x[1m])"), "rate(x[6000ms])");
        assert_eq!(shortened("rate(x[1h30m])"), "rate(x[180000ms])");
    }

    #[test]
    fn rules_are_written_as_they_were_read_but_for_durations() {
        let told = json!({ "groups": [{ "name": "g", "file": "f", "interval": 15, "rules": [
            { "type": "recording", "name": "a:b", "query": "sum(rate(c[5m]))", "health": "ok" },
            { "type": "alerting", "name": "A", "query": "c > 1", "duration": 300, "keepFiringFor": 60,
              "labels": { "severity": "page" }, "annotations": { "summary": "s" }, "alerts": [] },
        ] }] });
        let rules: Rules = serde_json::from_value(told).unwrap();
        assert_eq!(rules.alerts(), ["A"]);
        let file: Value = serde_json::from_str(&rules.shortened(30.0)).unwrap();
        let written = &file["groups"][0]["rules"];
        assert_eq!(
            written[0],
            json!({ "record": "a:b", "expr": "sum(rate(c[10000ms]))", "labels": {} })
        );
        assert_eq!(written[1]["for"], "10000ms");
        assert_eq!(written[1]["keep_firing_for"], "2000ms");
        assert_eq!(written[1]["labels"]["severity"], "page");
    }
}

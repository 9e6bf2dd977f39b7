//! Dashboards as Grafana loads them, from the short form in which they are written.
//!
//! ```text
//! grafana/dashboards/storage.toml ─read→ Dashboard ─render→ storage.json
//!                                          ↑ thresholds, runbook links
//!                               grafana/rules/polyraft-alerts.yml
//! ```
//!
//! A panel names its alerts; their values become its thresholds, and their runbooks its links, so that
//! neither is written twice. In an expression `{@}` is the selection of the variables, and may be
//! followed by more: `{@, lane="append"}`. `quantiles` is the usual pair for a histogram.
//!
//! Promise: the same text gives the same bytes. Not here: whether Grafana's types hold, which
//! `grafana/check.sh` judges.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::rules::Alert;

const SELECTION: &str = r#"{cluster=~"$cluster", node=~"$node""#;
const GRID_COLUMNS: u64 = 24;

/// One dashboard.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    pub title: String,
    pub about: String,
    pub panel: Vec<Panel>,
}

/// One panel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    pub title: String,
    pub about: String,
    /// A unit by Grafana's name.
    pub unit: String,
    /// One figure instead of a graph.
    #[serde(default)]
    pub stat: bool,
    /// The alerts that watch this.
    #[serde(default)]
    pub alerts: Vec<String>,
    /// Pairs of a legend and an expression.
    #[serde(default)]
    pub queries: Vec<(String, String)>,
    /// A histogram's median and 99th percentile.
    #[serde(default)]
    pub quantiles: Option<Quantiles>,
}

/// The usual pair for a histogram.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantiles {
    /// The family.
    pub of: String,
    /// Labels told apart beside the node.
    #[serde(default)]
    pub by: Vec<String>,
    /// What its labels must be, beside the variables' selection.
    #[serde(default)]
    pub only: Option<String>,
}

impl Dashboard {
    /// The file that Grafana loads: a line per panel.
    pub fn render(&self, name: &str, alerts: &[Alert]) -> String {
        let mut at = Place::default();
        let panels = self.panel.iter().zip(1_u64..);
        let panels: Vec<_> = panels.map(|(p, id)| p.render(id, at.next(p), alerts)).collect();
        let mut lines: Vec<String> = Vec::new();
        for (key, value) in frame(self, name).as_object().expect("it is one") {
            lines.push(format!("  {}: {value}", json!(key)));
        }
        let panels: Vec<_> = panels.iter().map(|panel| format!("    {panel}")).collect();
        lines.push(format!("  \"panels\": [\n{}\n  ]", panels.join(",\n")));
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

/// Everything but the panels.
fn frame(dashboard: &Dashboard, name: &str) -> Value {
    json!({
        "annotations": { "list": annotations() },
        "description": dashboard.about,
        "editable": true,
        "graphTooltip": 1,
        "links": [link("Other dashboards of polyraft", "dashboards", "")],
        "refresh": "10s",
        "schemaVersion": 39,
        "tags": ["polyraft"],
        "templating": { "list": variables() },
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "browser",
        "title": format!("polyraft / {}", dashboard.title),
        "uid": format!("polyraft-{name}"),
        "version": 1,
    })
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// Faults that were injected, and elections, over every graph.
fn annotations() -> Value {
    let mark = |name: &str, color: &str, title: &str, expr: &str| {
        json!({
            "name": name,
            "enable": true,
            "iconColor": color,
            "datasource": datasource(),
            "target": { "refId": "Anno", "expr": select(expr) },
            "titleFormat": title,
        })
    };
    json!([
        mark(
            "faults injected",
            "orange",
            "{{kind}} on node {{node}}",
            "sum by (cluster, node, kind) (increase(polyraft_faults_injected_total{@}[$__rate_interval])) > 0",
        ),
        mark(
            "process started",
            "blue",
            "node {{node}} started",
            "changes(polyraft_process_start_timestamp_seconds{@}[$__rate_interval]) > 0",
        ),
    ])
}

fn variables() -> Value {
    let labels = |name: &str, query: &str| {
        json!({
            "name": name,
            "type": "query",
            "datasource": datasource(),
            "query": { "query": query, "refId": name },
            "refresh": 2,
            "includeAll": true,
            "allValue": ".*",
            "multi": true,
            "sort": 7,
            "current": { "text": ["All"], "value": ["$__all"] },
        })
    };
    json!([
        { "name": "datasource", "type": "datasource", "query": "prometheus", "label": "data source" },
        labels("cluster", "label_values(up{job=\"polyraft\"}, cluster)"),
        labels("node", "label_values(up{job=\"polyraft\", cluster=~\"$cluster\"}, node)"),
    ])
}

fn link(title: &str, kind: &str, url: &str) -> Value {
    let to_dashboards = kind == "dashboards";
    let tags: &[&str] = if to_dashboards { &["polyraft"] } else { &[] };
    json!({
        "title": title,
        "type": kind,
        "url": url,
        "icon": if to_dashboards { "external link" } else { "doc" },
        "tooltip": "",
        "tags": tags,
        "asDropdown": to_dashboards,
        "includeVars": to_dashboards,
        "keepTime": to_dashboards,
        "targetBlank": !to_dashboards,
    })
}

/// `{@` and `, @` become the selection of the variables.
fn select(expr: &str) -> String {
    expr.replace("{@", SELECTION).replace(", @", &SELECTION.replacen('{', ", ", 1))
}

/// Where the next panel goes: from left to right, then below.
#[derive(Debug, Default)]
struct Place {
    x: u64,
    y: u64,
    height: u64,
}

impl Place {
    fn next(&mut self, panel: &Panel) -> Value {
        let (w, h) = if panel.stat { (4, 4) } else { (12, 8) };
        if self.x + w > GRID_COLUMNS || (self.x > 0 && self.height != h) {
            self.y += self.height;
            self.x = 0;
        }
        let place = json!({ "x": self.x, "y": self.y, "w": w, "h": h });
        self.x += w;
        self.height = h;
        place
    }
}

impl Panel {
    /// Legends and expressions, with the variables' selection in place.
    pub fn expressions(&self) -> Vec<(String, String)> {
        let quantiles = self.quantiles.as_ref().map(Quantiles::expressions).unwrap_or_default();
        let queries = self.queries.iter().cloned().chain(quantiles);
        queries.map(|(legend, expr)| (legend, select(&expr))).collect()
    }

    fn render(&self, id: u64, place: Value, alerts: &[Alert]) -> Value {
        let alerts: Vec<_> = self.alerts.iter().map(|name| find(alerts, name)).collect();
        let links =
            alerts.iter().map(|a| link(&format!("Runbook: {}", a.name), "link", &a.runbook_url));
        let links: Vec<_> = links.collect();
        let targets: Vec<_> = self.expressions().into_iter().zip('A'..).map(target).collect();
        json!({
            "id": id,
            "type": if self.stat { "stat" } else { "timeseries" },
            "title": self.title,
            "description": self.about,
            "datasource": datasource(),
            "gridPos": place,
            "links": links,
            "targets": targets,
            "fieldConfig": { "defaults": self.field_defaults(&alerts), "overrides": [] },
            "options": if self.stat { stat_options() } else { graph_options() },
        })
    }

    fn field_defaults(&self, alerts: &[&Alert]) -> Value {
        let steps = threshold_steps(alerts);
        let is_watched = steps.len() > 1;
        let color = if self.stat { "thresholds" } else { "palette-classic" };
        let mut defaults = json!({
            "unit": self.unit,
            "color": { "mode": color },
            "thresholds": { "mode": "absolute", "steps": steps },
        });
        if !self.stat {
            defaults["custom"] = json!({
                "drawStyle": "line",
                "fillOpacity": 5,
                "lineWidth": 1,
                "showPoints": "never",
                "thresholdsStyle": { "mode": if is_watched { "dashed" } else { "off" } },
            });
        }
        defaults
    }
}

impl Quantiles {
    fn expressions(&self) -> Vec<(String, String)> {
        let by: String = self.by.iter().map(|label| format!("{label}, ")).collect();
        let of = &self.of;
        let only = self.only.as_ref().map(|only| format!(", {only}")).unwrap_or_default();
        let labels: String = self.by.iter().map(|label| format!(" {{{{{label}}}}}")).collect();
        let one = |name: &str, quantile: &str| {
            let rate = format!("rate({of}_bucket{{@{only}}}[$__rate_interval])");
            let sum = format!("sum by (cluster, node, {by}le) ({rate})");
            (
                format!("{{{{node}}}}{labels} {name}"),
                format!("histogram_quantile({quantile}, {sum})"),
            )
        };
        vec![one("p50", "0.5"), one("p99", "0.99")]
    }
}

fn find<'a>(alerts: &'a [Alert], name: &str) -> &'a Alert {
    alerts.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("no alert is called {name}"))
}

fn target(((legend, expr), id): ((String, String), char)) -> Value {
    let id = id.to_string();
    json!({ "refId": id, "expr": expr, "legendFormat": legend, "editorMode": "code", "range": true })
}

fn stat_options() -> Value {
    json!({
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": { "calcs": ["lastNotNull"], "values": false },
        "showPercentChange": false,
        "textMode": "auto",
        "wideLayout": true,
    })
}

fn graph_options() -> Value {
    json!({
        "legend": { "calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": true },
        "tooltip": { "mode": "multi", "sort": "desc" },
    })
}

/// Colours by value: at each alert's threshold, and below all of them, that of the worst that fires.
fn threshold_steps(alerts: &[&Alert]) -> Vec<Value> {
    let thresholds: Vec<_> = alerts.iter().filter_map(|a| Some((a.threshold()?, a))).collect();
    let mut values: Vec<_> = thresholds.iter().map(|(threshold, _)| threshold.value()).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let color = |value: f64| {
        let firing = thresholds.iter().filter(|(threshold, _)| threshold.is_passed(value));
        let critical = firing.clone().any(|(_, alert)| alert.severity == "critical");
        if critical {
            "red"
        } else if firing.count() > 0 {
            "orange"
        } else {
            "green"
        }
    };
    let lowest = json!({ "value": null, "color": color(f64::NEG_INFINITY) });
    let steps = values.into_iter().map(|value| json!({ "value": value, "color": color(value) }));
    std::iter::once(lowest).chain(steps).collect()
}

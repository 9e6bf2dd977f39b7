//! A real Prometheus on this machine, which scrapes the processes under test, and its HTTP API.
//!
//! ```text
//! nodes ─/metrics, every second→ prometheus ─rules→ alerts
//!                                    ↑ query, query_range, alerts: plain HTTP
//! ```
//!
//! Promise: everything it writes is in the directory that it was given, and it is killed when dropped.
//! Needs Debian's package `prometheus`. Not here: what is asked, and what must come of it.
//! Source: Prometheus, "HTTP API", v1.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::member::Member;
use crate::node_process::{Cluster, ProcessError, io};
use crate::plain_http::{self, Request, escaped, form};
use crate::ports::free_tcp_port;
use crate::short_rules::Rules;

/// Debian's.
pub const BINARY: &str = "/usr/bin/prometheus";
/// The job that the dashboards and rules expect the nodes to be scraped by.
pub const JOB: &str = "polyraft";
/// Between two scrapes, and between two evaluations of the rules.
pub const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrometheusError {
    /// The process could not be had.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It never became ready.
    #[error("prometheus was not ready within {START_TIMEOUT:?}; its output:\n{output}")]
    NotReady {
        /// The end of its output.
        output: String,
    },
    /// It cannot be reached.
    #[error("no answer from prometheus to {path}")]
    Io {
        /// What was asked for.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It refuses the query.
    #[error("{kind}: {message}")]
    Refused {
        /// The API's word for it.
        kind: String,
        /// Why.
        message: String,
    },
    /// The answer is not what the API's documentation says.
    #[error("not an answer of the API: {text}")]
    Malformed {
        /// What was answered.
        text: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// One process to scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port` of its admin interface.
    pub address: String,
    /// The label `cluster`.
    pub cluster: String,
    /// The label `node`.
    pub node: String,
}

/// The targets of a cluster, whose nodes count from 1.
pub fn targets_of(cluster: &Cluster, name: &str) -> Vec<Target> {
    let target = |at: usize| Target {
        address: cluster.admin(at).to_owned(),
        cluster: name.to_owned(),
        node: (at + 1).to_string(),
    };
    (0..3).map(target).collect()
}

/// One row of a result: its labels, and its values in the order of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its values; one for an instant.
    pub values: Vec<f64>,
}

/// One alert that is pending or fires.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Alert {
    /// Its labels, with its name under `alertname`.
    pub labels: BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub state: String,
}

impl Alert {
    /// The value of a label; empty if it has none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Whether it fires.
    pub fn fires(&self) -> bool {
        self.state == "firing"
    }
}

#[derive(Deserialize)]
struct Envelope {
    data: Option<serde_json::Value>,
    #[serde(default, rename = "errorType")]
    kind: String,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct Alerts {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Outcome {
    Vector(Vec<InstantRow>),
    Matrix(Vec<RangeRow>),
    Scalar((f64, String)),
    /// The API's word for a literal, which no expression of numbers is.
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct InstantRow {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

#[derive(Deserialize)]
struct RangeRow {
    metric: BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

/// The rules in `files`, read by a Prometheus that scrapes nothing and keeps its files in `dir`.
///
/// # Errors
/// It cannot be started, or refuses the rules.
pub async fn read_rules(dir: &Path, files: &[PathBuf]) -> Result<Rules, PrometheusError> {
    let prometheus = Prometheus::start(dir, &[], files).await?;
    prometheus.ask(Request::get("/api/v1/rules")).await
}

/// A running Prometheus.
pub struct Prometheus {
    process: Member,
    address: String,
    config: PathBuf,
    rules: Vec<PathBuf>,
}

impl Prometheus {
    /// Starts one that keeps everything in the new directory `dir`, scrapes `targets` and evaluates the
    /// rules in `rules`; returns when it serves.
    ///
    /// # Errors
    /// It cannot be started, or refuses its configuration.
    pub async fn start(
        dir: &Path,
        targets: &[Target],
        rules: &[PathBuf],
    ) -> Result<Self, PrometheusError> {
        std::fs::create_dir_all(dir).map_err(io("making prometheus's directory"))?;
        let config = dir.join("prometheus.yml");
        write(&config, targets, rules)?;
        let address = format!("127.0.0.1:{}", free_tcp_port()?);
        let path = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let arguments = vec![
            path("config.file", &config),
            path("storage.tsdb.path", &dir.join("data")),
            format!("--web.listen-address={address}"),
            "--log.level=warn".to_owned(),
        ];
        let mut process = Member::new(BINARY.into(), arguments, dir.join("output"));
        process.start()?;
        let prometheus = Self { process, address, config, rules: rules.to_vec() };
        prometheus.wait_until_ready().await?;
        Ok(prometheus)
    }

    /// Lets it scrape `targets` and nothing else from now on.
    ///
    /// # Errors
    /// Its configuration cannot be written, or it has ended.
    pub fn retarget(&self, targets: &[Target]) -> Result<(), PrometheusError> {
        write(&self.config, targets, &self.rules)?;
        let pid = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let told = pid.ok_or(Errno::SRCH).and_then(|pid| kill_process(pid, Signal::HUP));
        Ok(told.map_err(|errno| io("telling prometheus of its configuration")(errno.into()))?)
    }

    async fn wait_until_ready(&self) -> Result<(), PrometheusError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answer = plain_http::send(&self.address, Request::get("/-/ready")).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(PrometheusError::NotReady { output: self.process.output() });
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// What `expression` is now.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub async fn query(&self, expression: &str) -> Result<Vec<Row>, PrometheusError> {
        self.evaluate("/api/v1/query", &[("query", expression)]).await
    }

    /// What `expression` was over the last `length`, every `step`.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub async fn query_range(
        &self,
        expression: &str,
        length: Duration,
        step: Duration,
    ) -> Result<Vec<Row>, PrometheusError> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let (start, end) = (now.saturating_sub(length).as_secs_f64(), now.as_secs_f64());
        let (start, end) = (start.to_string(), end.to_string());
        let step = step.as_secs_f64().to_string();
        let fields = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        self.evaluate("/api/v1/query_range", &fields).await
    }

    async fn evaluate(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<Vec<Row>, PrometheusError> {
        let body = form(fields);
        let body = ("application/x-www-form-urlencoded", body.as_str());
        self.ask(Request { method: "POST", path, token: None, body }).await.map(rows)
    }

    /// The values that label `name` has among the series that `selector` matches.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub async fn label_values(
        &self,
        name: &str,
        selector: Option<&str>,
    ) -> Result<Vec<String>, PrometheusError> {
        let filter = selector.map_or_else(String::new, |s| format!("?match[]={}", escaped(s)));
        self.ask(Request::get(&format!("/api/v1/label/{name}/values{filter}"))).await
    }

    /// Every alert that is pending or fires.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn alerts(&self) -> Result<Vec<Alert>, PrometheusError> {
        let Alerts { alerts } = self.ask(Request::get("/api/v1/alerts")).await?;
        Ok(alerts)
    }

    /// Waits until every target has been scraped.
    ///
    /// # Errors
    /// There is no answer, or one target never was.
    pub async fn wait_until_up(&self, targets: usize) -> Result<(), PrometheusError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let up = self.query(&format!("up{{job=\"{JOB}\"}} == 1")).await?;
            if up.len() == targets {
                return Ok(());
            }
            if Instant::now() > deadline {
                let output = format!("{} of {targets} targets are up", up.len());
                return Err(PrometheusError::NotReady { output });
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn ask<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<T, PrometheusError> {
        let path = request.path.to_owned();
        let answer = plain_http::send(&self.address, request).await;
        let text = answer.map_err(|source| PrometheusError::Io { path, source })?.body;
        read(&text)
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, PrometheusError> {
    let malformed = |source| PrometheusError::Malformed { text: text.to_owned(), source };
    let Envelope { data, kind, error } = serde_json::from_str(text).map_err(malformed)?;
    match data {
        Some(data) if error.is_empty() => serde_json::from_value(data).map_err(malformed),
        _ => Err(PrometheusError::Refused { kind, message: error }),
    }
}

fn rows(outcome: Outcome) -> Vec<Row> {
    let number = |text: &String| text.parse().unwrap_or(f64::NAN);
    let of_instant =
        |InstantRow { metric, value }| Row { labels: metric, values: vec![number(&value.1)] };
    let of_range = |RangeRow { metric, values }| Row {
        labels: metric,
        values: values.iter().map(|(_, value)| number(value)).collect(),
    };
    match outcome {
        Outcome::Vector(rows) => rows.into_iter().map(of_instant).collect(),
        Outcome::Matrix(rows) => rows.into_iter().map(of_range).collect(),
        Outcome::Scalar((_, value)) => {
            vec![Row { labels: BTreeMap::new(), values: vec![number(&value)] }]
        }
        Outcome::String(_) => Vec::new(),
    }
}

fn write(path: &Path, targets: &[Target], rules: &[PathBuf]) -> Result<(), ProcessError> {
    // JSON is YAML.
    std::fs::write(path, configuration(targets, rules).to_string())
        .map_err(io("writing prometheus's configuration"))
}

fn configuration(targets: &[Target], rules: &[PathBuf]) -> serde_json::Value {
    let interval = format!("{}s", SCRAPE_INTERVAL.as_secs());
    let scraped = targets.iter().map(|Target { address, cluster, node }| {
        json!({ "targets": [address], "labels": { "cluster": cluster, "node": node } })
    });
    json!({
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": rules,
        "scrape_configs": [{
            "job_name": JOB,
            "static_configs": scraped.collect::<Vec<_>>(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_every_kind_are_rows_of_values() {
        let vector = r#"{"status":"success","data":{"resultType":"vector","result":
            [{"metric":{"node":"1"},"value":[1.5,"NaN"]},{"metric":{},"value":[2,"+Inf"]}]}}"#;
        let rows_of = |text: &str| rows(read(text).unwrap());
        let found = rows_of(vector);
        assert!(found[0].values[0].is_nan() && found[0].labels["node"] == "1");
        assert_eq!(found[1].values, [f64::INFINITY]);
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":
            [{"metric":{},"values":[[1,"0"],[2,"4.5"]]}]}}"#;
        assert_eq!(rows_of(matrix)[0].values, [0.0, 4.5]);
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}"#;
        assert_eq!(rows_of(scalar)[0].values, [7.0]);
    }

    #[test]
    fn a_refusal_says_why() {
        let text = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        let refused = read::<Outcome>(text).err().unwrap();
        assert_eq!(refused.to_string(), "bad_data: parse error");
        assert!(matches!(read::<Outcome>("<html>"), Err(PrometheusError::Malformed { .. })));
    }

    #[test]
    fn each_node_is_a_target_with_its_labels() {
        let target =
            Target { address: "127.0.0.1:1".into(), cluster: "c".into(), node: "2".into() };
        let config = configuration(&[target], &["r.yml".into()]);
        assert_eq!(config["rule_files"][0], "r.yml");
        let scraped = &config["scrape_configs"][0]["static_configs"][0];
        assert_eq!(scraped["targets"][0], "127.0.0.1:1");
        assert_eq!(scraped["labels"], json!({ "cluster": "c", "node": "2" }));
    }
}

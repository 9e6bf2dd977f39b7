//! Runs every query of every dashboard on a real Prometheus that scrapes a cluster under load and under
//! one trouble after the other (OB-3).
//!
//! ```text
//! panels --binary PATH/polyraft [--dashboards DIR] [--rules DIR] [--settle-s T] [--dir DIR]
//! calm, node dead, node paused, links, disks, actors, certificates … : each query, until it has an answer
//! ```
//!
//! Fails if a query is refused; or if in no phase it gave rows of which none is NaN throughout. The table says
//! in which phase it first did, and in which its values were first other than zero.
//! Needs Debian's `prometheus`, and `openssl`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::dashboards::{self, Query, Source, Variable};
use polyraft_etcd_client_tests::outcome;
use polyraft_etcd_client_tests::prometheus_process::{Prometheus, Row, read_rules, targets_of};
use polyraft_etcd_client_tests::stage::{Layout, Stage};
use polyraft_etcd_client_tests::table::table;
use polyraft_etcd_client_tests::traffic::Amount;
use polyraft_etcd_client_tests::trouble::Trouble;

/// What a panel shows of.
const RANGE: Duration = Duration::from_secs(30);
/// Between two points of a panel.
const STEP: Duration = Duration::from_secs(2);
/// Long enough for some scrapes, as Grafana has it.
const RATE_INTERVAL: &str = "10s";
/// Rules' windows are shortened by this, as a panel's are.
const SHORTER: f64 = 30.0;
/// Between two injections of what is over in a moment.
const SOON: Duration = Duration::from_millis(300);
const LATER: Duration = Duration::from_millis(700);
const KILL_GROUP_1: &str = r#"{"kind":"kill_actor","actor":"group","group":1,"mode":"panic"}"#;
const KILL_GROUP_2: &str = r#"{"kind":"kill_actor","actor":"group","group":2,"mode":"panic"}"#;
const KILL_GROUP_3: &str = r#"{"kind":"kill_actor","actor":"group","group":3,"mode":"panic"}"#;
const LOOK_PAUSE: Duration = Duration::from_secs(1);

const LAYOUT: Layout = Layout {
    name: "panels",
    keyspaces: 16,
    profile: "lan",
    tables: "[batching]\nqueue_commands_max = 200\n[storage]\nlog_map_bytes = \"256MiB\"\n\
             journal_bytes_max = \"1MiB\"\n[limits]\ncatch_up_bytes = \"1MiB\"\n\
             catch_up_entries = 100\n",
    traffic: Amount {
        keyspaces: 16,
        clients: 16,
        pause: Duration::from_millis(20),
        value_bytes: 256,
    },
};

/// What a panel may be about, in turn. The last ones leave the cluster with less than it had.
const PHASES: [(&str, Trouble); 18] = [
    ("calm", Trouble::Calm),
    ("node dead", Trouble::Killed(&[2])),
    ("majority dead", Trouble::Killed(&[1, 2])),
    ("node paused", Trouble::Paused(&[0])),
    (
        "link cut",
        Trouble::Injected(&[0], r#"{"kind":"link","peer":2,"direction":"both","cut":true}"#),
    ),
    (
        "bad link",
        Trouble::Injected(
            &[0],
            r#"{"kind":"link","peer":2,"direction":"both","delay":"100ms","loss_per_mille":200,
               "duplicate_per_mille":200,"reorder_per_mille":200}"#,
        ),
    ),
    ("slow disk", Trouble::Injected(&[0, 1], r#"{"kind":"disk","store":"both","delay":"300ms"}"#)),
    ("stalled disk", Trouble::Injected(&[0], r#"{"kind":"disk","store":"both","stall":true}"#)),
    ("full disk", Trouble::Injected(&[0], r#"{"kind":"disk","store":"both","full":true}"#)),
    (
        "actors die",
        Trouble::Together(&[
            Trouble::Again(
                &[0],
                r#"{"kind":"kill_actor","actor":"log_writer","mode":"panic"}"#,
                SOON,
            ),
            Trouble::Again(&[1], r#"{"kind":"kill_actor","actor":"tick","mode":"stop"}"#, SOON),
            Trouble::Again(
                &[2],
                r#"{"kind":"stall_actor","actor":"applier","group":1,"for":"300ms"}"#,
                SOON,
            ),
        ]),
    ),
    (
        "leaders die",
        Trouble::Together(&[
            Trouble::Again(&[0, 1, 2], KILL_GROUP_1, LATER),
            Trouble::Again(&[1, 2, 0], KILL_GROUP_2, LATER),
            Trouble::Again(&[2, 0, 1], KILL_GROUP_3, LATER),
        ]),
    ),
    (
        "flood",
        Trouble::Together(&[
            Trouble::Injected(&[0, 1, 2], r#"{"kind":"disk","store":"log","delay":"500ms"}"#),
            Trouble::Flooded(400, Duration::ZERO, 1_000),
        ]),
    ),
    ("wrong authority", Trouble::WrongAuthority(1)),
    ("expiring certificate", Trouble::ExpiringCertificate(1)),
    ("spoiled certificate", Trouble::SpoiledCertificate(0)),
    ("disk lost", Trouble::Wiped(2)),
    (
        "group dies",
        Trouble::Together(&[
            Trouble::Again(&[1], KILL_GROUP_1, SOON),
            Trouble::Broken(&[2], r#"{"kind":"disk","store":"log","error":"eio"}"#),
        ]),
    ),
    // Last, and not ended: this journal is so small that the damaged record may have been collected by
    // then, and a group that lost one stays quarantined.
    ("disk damaged", Trouble::Damaged(2)),
];

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("panels", run().await)
}

/// Whether every query had an answer.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["binary", "dashboards", "rules", "settle-s", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    let folder: PathBuf = arguments.get_or("dashboards", "grafana/dashboards".into())?;
    let rules: PathBuf = arguments.get_or("rules", "grafana/rules".into())?;
    let settle = Duration::from_secs(arguments.get_or("settle-s", 12)?);
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    let mut panels = Panels::read(&folder)?;
    let rules = shortened_rules(&dir, &rules).await?;
    let mut stage = Stage::start(&binary, dir.join("cluster"), LAYOUT).await?;
    let targets = targets_of(&stage.cluster, stage.name());
    let prometheus = Prometheus::start(&dir.join("prometheus"), &targets, &[rules]).await?;
    prometheus.wait_until_up(targets.len()).await?;
    tokio::time::sleep(RANGE / 2).await;
    for (at, (phase, trouble)) in PHASES.into_iter().enumerate() {
        println!("phase {phase}: {} of {} queries open", panels.open(), panels.asked.len());
        trouble.begin(&mut stage).await?;
        let until = Instant::now() + settle;
        while panels.open() > 0 && Instant::now() < until {
            panels.look(&prometheus, phase).await?;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        if at + 1 < PHASES.len() {
            trouble.end(&mut stage).await?;
        }
    }
    print!("{}", panels.table());
    let failed = panels.failures();
    failed.iter().for_each(|failure| println!("FAILED {failure}"));
    println!("{} queries, {} failed", panels.asked.len(), failed.len());
    Ok(failed.is_empty() && !panels.asked.is_empty())
}

async fn shortened_rules(dir: &Path, folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let files = dashboards::files(folder, "yml")?;
    let absolute = files.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>()?;
    let rules = read_rules(&dir.join("rules"), &absolute).await?;
    let path = dir.join("shortened.yml");
    std::fs::write(&path, rules.shortened(SHORTER))?;
    Ok(path)
}

/// One query, and what was answered so far.
struct Asked {
    dashboard: usize,
    query: Query,
    answered: Option<(&'static str, usize)>,
    moved: Option<&'static str>,
    refused: Option<String>,
    last: String,
}

impl Asked {
    fn take(&mut self, phase: &'static str, rows: &[Row]) {
        let judged = judge(rows);
        self.last = judged.to_string();
        if let Judged::Rows { rows, moves } = judged {
            self.answered.get_or_insert((phase, rows));
            if moves {
                self.moved.get_or_insert(phase);
            }
        }
    }

    fn is_open(&self) -> bool {
        self.refused.is_none() && (self.answered.is_none() || self.moved.is_none())
    }
}

/// What a result is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Empty,
    NotANumber(usize),
    Rows { rows: usize, moves: bool },
}

impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::NotANumber(rows) => write!(f, "NaN in {rows} rows"),
            Self::Rows { rows, .. } => write!(f, "{rows} rows"),
        }
    }
}

fn judge(rows: &[Row]) -> Judged {
    let is_nan = |row: &&Row| row.values.iter().all(|value| value.is_nan());
    let moves = |value: &f64| !value.is_nan() && *value != 0.0;
    match rows.iter().filter(is_nan).count() {
        _ if rows.is_empty() => Judged::Empty,
        0 => Judged::Rows {
            rows: rows.len(),
            moves: rows.iter().flat_map(|row| &row.values).any(moves),
        },
        nan => Judged::NotANumber(nan),
    }
}

/// Every query of every dashboard.
struct Panels {
    names: Vec<String>,
    variables: Vec<Vec<Variable>>,
    asked: Vec<Asked>,
}

impl Panels {
    fn read(folder: &Path) -> Result<Self, dashboards::DashboardError> {
        let all = dashboards::read_all(folder)?;
        let names = all.iter().map(|dashboard| dashboard.name.clone()).collect();
        let variables = all.iter().map(|dashboard| dashboard.variables.clone()).collect();
        let (mut asked, last) = (Vec::new(), "never asked".to_owned());
        for (dashboard, found) in all.into_iter().enumerate() {
            asked.extend(found.queries.into_iter().map(|query| Asked {
                dashboard,
                query,
                answered: None,
                moved: None,
                refused: None,
                last: last.clone(),
            }));
        }
        Ok(Self { names, variables, asked })
    }

    fn open(&self) -> usize {
        self.asked.iter().filter(|asked| asked.is_open()).count()
    }

    /// Asks everything that has no answer yet, or only zeros.
    async fn look(
        &mut self,
        prometheus: &Prometheus,
        phase: &'static str,
    ) -> Result<(), Box<dyn Error>> {
        let mut values = Vec::new();
        for variables in &self.variables {
            values.push(resolve(prometheus, variables).await?);
        }
        for asked in self.asked.iter_mut().filter(|asked| asked.is_open()) {
            let values = &values[asked.dashboard];
            let expression = dashboards::substitute(&asked.query.expression, values)?;
            let rows = match asked.query.is_instant {
                true => prometheus.query(&expression).await,
                false => prometheus.query_range(&expression, RANGE, STEP).await,
            };
            match rows {
                Ok(rows) => asked.take(phase, &rows),
                Err(error) => asked.refused = Some(format!("{error} in {expression}")),
            }
        }
        Ok(())
    }

    fn table(&self) -> String {
        let rows: Vec<_> = self.asked.iter().map(|asked| self.cells(asked)).collect();
        table(&["dashboard", "panel", "query", "rows", "first in", "other than zero in"], &rows)
    }

    fn cells(&self, asked: &Asked) -> Vec<String> {
        let (phase, rows) = asked.answered.unwrap_or(("never", 0));
        vec![
            self.names[asked.dashboard].clone(),
            asked.query.panel.clone(),
            asked.query.reference.clone(),
            rows.to_string(),
            phase.to_owned(),
            asked.moved.unwrap_or("never").to_owned(),
        ]
    }

    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for asked in &self.asked {
            let Asked { dashboard, query, answered, refused, last, .. } = asked;
            let why = match (refused, answered) {
                (Some(refused), _) => refused,
                (None, None) => last,
                (None, Some(_)) => continue,
            };
            let Query { panel, reference, expression, .. } = query;
            let name = &self.names[*dashboard];
            failures.push(format!("{name}, {panel}, {reference}: {why}: {expression}"));
        }
        failures
    }
}

/// What a dashboard's variables stand for, and Grafana's own.
async fn resolve(
    prometheus: &Prometheus,
    variables: &[Variable],
) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let own = [
        ("__rate_interval", RATE_INTERVAL.to_owned()),
        ("__interval", format!("{}s", STEP.as_secs())),
        ("__interval_ms", STEP.as_millis().to_string()),
        ("__range", format!("{}s", RANGE.as_secs())),
        ("__range_s", RANGE.as_secs().to_string()),
    ];
    let mut values: BTreeMap<_, _> =
        own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for variable in variables {
        let found = match &variable.source {
            Source::Fixed(found) => found.clone(),
            Source::LabelValues { label, selector } => {
                let selector = selector.as_ref().map(|s| dashboards::substitute(s, &values));
                prometheus.label_values(label, selector.transpose()?.as_deref()).await?
            }
        };
        if found.is_empty() {
            return Err(format!("variable {} has no value", variable.name).into());
        }
        values.insert(variable.name.clone(), dashboards::chosen(variable, &found));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f64]) -> Row {
        Row { labels: BTreeMap::new(), values: values.to_vec() }
    }

    /// Negative controls: neither nothing nor NaN passes for an answer.
    #[test]
    fn an_answer_has_rows_and_none_of_them_is_nan_throughout() {
        let nan = f64::NAN;
        assert_eq!(judge(&[]), Judged::Empty);
        assert_eq!(judge(&[row(&[1.0]), row(&[nan, nan])]), Judged::NotANumber(1));
        assert_eq!(judge(&[row(&[0.0, nan])]), Judged::Rows { rows: 1, moves: false });
        assert_eq!(judge(&[row(&[0.0]), row(&[nan, 2.0])]), Judged::Rows { rows: 2, moves: true });
    }

    #[test]
    fn a_query_is_open_until_it_moves_or_is_refused() {
        let query = Query {
            panel: "p".into(),
            reference: "A".into(),
            expression: "e".into(),
            is_instant: true,
        };
        let mut asked = Asked {
            dashboard: 0,
            query,
            answered: None,
            moved: None,
            refused: None,
            last: String::new(),
        };
        asked.take("calm", &[]);
        assert!(asked.is_open() && asked.answered.is_none() && asked.last == "empty");
        asked.take("first", &[row(&[0.0])]);
        assert!(asked.is_open() && asked.answered == Some(("first", 1)));
        asked.take("second", &[row(&[1.0])]);
        assert!(!asked.is_open() && asked.moved == Some("second"));
    }
}

//! Sets off the cause of every alert on a live cluster, sees a real Prometheus fire it, ends the cause, and
//! sees it resolve (OB-4).
//!
//! ```text
//! alerts --binary PATH/polyraft [--rules DIR] [--only ALERT,…] [--dir DIR]
//! stages at the same time: calm … trouble ─→ its alerts fire ─ended→ they resolve … the next
//! ```
//!
//! The rules' waits are shortened by one factor ([`short_rules`]), thresholds are as shipped. Fails if an
//! alert has no scenario, fires in the calm before, or does not fire or resolve in time. Each stage is a
//! cluster of its own, whose alerts are told from others' by the label `cluster`.
//! Needs Debian's `prometheus`, and `openssl`.
//!
//! [`short_rules`]: polyraft_etcd_client_tests::short_rules

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::alert_scenarios::{LAYOUTS, SCENARIOS, Scenario, UNSCRAPED};
use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::prometheus_process::{
    Prometheus, PrometheusError, Target, read_rules, targets_of,
};
use polyraft_etcd_client_tests::stage::Stage;
use polyraft_etcd_client_tests::table::table;
use polyraft_etcd_client_tests::{dashboards, outcome};
use tokio::task::LocalSet;

/// A rule that waits for 5 minutes waits for 10 seconds.
const SHORTER: f64 = 30.0;
/// How long nothing may fire, before the first trouble.
const CALM: Duration = Duration::from_secs(30);
/// How long after the start of a cluster alerts may still be about that.
const SETTLE: Duration = Duration::from_secs(20);
const FIRE_WITHIN: Duration = Duration::from_secs(100);
const RESOLVE_WITHIN: Duration = Duration::from_secs(150);
const LOOK_PAUSE: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("alerts", LocalSet::new().run_until(run()).await)
}

/// Whether every alert was seen to fire for its cause alone, and to resolve.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["binary", "rules", "only", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    let folder: PathBuf = arguments.get_or("rules", "grafana/rules".into())?;
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    let files = dashboards::files(&folder, "yml")?;
    let files = files.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>()?;
    let rules = read_rules(&dir.join("rules"), &files).await?;
    let unlike = mismatches(&rules.alerts(), &SCENARIOS);
    unlike.iter().for_each(|mismatch| println!("FAILED {mismatch}"));
    let only = arguments.get_or("only", String::new())?;
    let wanted = |alert: &str| only.is_empty() || only.split(',').any(|name| name == alert);
    let plan = plan(&SCENARIOS, wanted);
    let short = dir.join("shortened.yml");
    std::fs::write(&short, rules.shortened(SHORTER))?;
    let began = Instant::now();
    let mut stages = Vec::new();
    for layout in LAYOUTS.iter().filter(|layout| plan.contains_key(layout.name)) {
        stages.push(Stage::start(&binary, dir.join(layout.name), *layout).await?);
    }
    let targets: Vec<_> =
        stages.iter().flat_map(|stage| targets_of(&stage.cluster, stage.name())).collect();
    let short = [short];
    let prometheus = Prometheus::start(&dir.join("prometheus"), &targets, &short).await?;
    prometheus.wait_until_up(targets.len()).await?;
    let causeless = calm(&prometheus).await?;
    causeless.iter().for_each(|alert| println!("FAILED fires without a cause: {alert}"));
    let mut rows = Vec::new();
    if wanted(UNSCRAPED) {
        let blind = Prometheus::start(&dir.join("unscraped"), &[], &short).await?;
        rows.push(unscraped(&blind, &targets).await?);
    }
    let (prometheus, mut running) = (Rc::new(prometheus), Vec::new());
    for stage in stages {
        let scenarios = plan[stage.name()].clone();
        running.push(tokio::task::spawn_local(play(stage, scenarios, Rc::clone(&prometheus))));
    }
    for stage in running {
        rows.extend(stage.await??);
    }
    let is_good = rows.iter().all(Seen::is_good);
    let cells: Vec<_> = rows.iter().map(Seen::cells).collect();
    print!("{}", table(&["alert", "scenario", "s to fire", "s to resolve"], &cells));
    println!("{} alerts, {:.0} s", rows.len(), began.elapsed().as_secs_f64());
    Ok(is_good && unlike.is_empty() && causeless.is_empty() && !rows.is_empty())
}

/// Alerts without a scenario, and scenarios of alerts that are not there.
fn mismatches(alerts: &[String], scenarios: &[Scenario]) -> Vec<String> {
    let of_stages = scenarios.iter().flat_map(|scenario| scenario.alerts).copied();
    let shown: BTreeSet<_> = of_stages.chain([UNSCRAPED]).collect();
    let there: BTreeSet<_> = alerts.iter().map(String::as_str).collect();
    let without = there.iter().filter(|alert| !shown.contains(*alert));
    let unknown = shown.iter().filter(|alert| !there.contains(*alert));
    let without = without.map(|alert| format!("no scenario sets off {alert}"));
    without.chain(unknown.map(|alert| format!("there is no alert {alert}"))).collect()
}

/// The scenarios of each stage that are about an alert that is wanted.
fn plan(
    scenarios: &[Scenario],
    wanted: impl Fn(&str) -> bool,
) -> BTreeMap<&'static str, Vec<Scenario>> {
    let mut plan: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for scenario in scenarios {
        if scenario.alerts.iter().any(|alert| wanted(alert)) {
            plan.entry(scenario.stage).or_default().push(*scenario);
        }
    }
    plan
}

/// What fires although nothing was done.
async fn calm(prometheus: &Prometheus) -> Result<BTreeSet<String>, PrometheusError> {
    tokio::time::sleep(SETTLE).await;
    let (until, mut firing) = (Instant::now() + CALM, BTreeSet::new());
    while Instant::now() < until {
        for alert in prometheus.alerts().await?.iter().filter(|alert| alert.fires()) {
            let [name, cluster, node] = ["alertname", "cluster", "node"].map(|l| alert.label(l));
            firing.insert(format!("{name} of cluster {cluster:?}, node {node:?}"));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(firing)
}

/// One alert of one scenario, and when it was seen.
struct Seen {
    alert: &'static str,
    scenario: &'static str,
    fired: Option<Duration>,
    resolved: Option<Duration>,
}

impl Seen {
    fn is_good(&self) -> bool {
        self.fired.is_some() && self.resolved.is_some()
    }

    fn cells(&self) -> Vec<String> {
        let seconds = |took: Option<Duration>| {
            took.map_or_else(|| "FAILED".to_owned(), |took| format!("{:.1}", took.as_secs_f64()))
        };
        let [alert, scenario] = [self.alert, self.scenario].map(str::to_owned);
        vec![alert, scenario, seconds(self.fired), seconds(self.resolved)]
    }
}

/// A Prometheus that scrapes nothing, and then everything.
async fn unscraped(prometheus: &Prometheus, targets: &[Target]) -> Result<Seen, PrometheusError> {
    let alert = [UNSCRAPED];
    let fired = watch(prometheus, "", &alert, true, FIRE_WITHIN).await?;
    prometheus.retarget(targets)?;
    let resolved = watch(prometheus, "", &alert, false, RESOLVE_WITHIN).await?;
    Ok(Seen {
        alert: UNSCRAPED,
        scenario: "nothing is scraped",
        fired: fired.get(UNSCRAPED).copied(),
        resolved: resolved.get(UNSCRAPED).copied(),
    })
}

/// One stage's scenarios, one after the other.
async fn play(
    mut stage: Stage,
    scenarios: Vec<Scenario>,
    prometheus: Rc<Prometheus>,
) -> Result<Vec<Seen>, String> {
    let mut seen = Vec::new();
    for scenario in scenarios {
        let told = |error: Box<dyn Error>| format!("{}: {error}", scenario.name);
        seen.extend(show(&mut stage, scenario, &prometheus).await.map_err(told)?);
    }
    Ok(seen)
}

async fn show(
    stage: &mut Stage,
    scenario: Scenario,
    prometheus: &Prometheus,
) -> Result<Vec<Seen>, Box<dyn Error>> {
    let Scenario { name, trouble, alerts, .. } = scenario;
    let cluster = stage.name();
    let early = watch(prometheus, cluster, alerts, false, RESOLVE_WITHIN).await?;
    if early.len() < alerts.len() {
        return Err("its alerts fire before it began".into());
    }
    let firing = watch(prometheus, cluster, alerts, true, FIRE_WITHIN);
    let (begun, fired) = tokio::join!(trouble.begin(stage), firing);
    begun?;
    let fired = fired?;
    let resolving = watch(prometheus, cluster, alerts, false, RESOLVE_WITHIN);
    let (ended, resolved) = tokio::join!(trouble.end(stage), resolving);
    ended?;
    let resolved = resolved?;
    let seen = |alert: &&'static str| Seen {
        alert,
        scenario: name,
        fired: fired.get(alert).copied(),
        resolved: resolved.get(alert).copied(),
    };
    let seen: Vec<_> = alerts.iter().map(seen).collect();
    seen.iter().for_each(|seen| println!("{}: {}", stage.name(), seen.cells().join("  ")));
    Ok(seen)
}

/// When each of a cluster's alerts first fired, or for the last time did not; the rest were not seen so.
async fn watch(
    prometheus: &Prometheus,
    cluster: &str,
    alerts: &[&'static str],
    fires: bool,
    patience: Duration,
) -> Result<BTreeMap<&'static str, Duration>, PrometheusError> {
    let (began, mut seen) = (Instant::now(), BTreeMap::new());
    loop {
        let told = prometheus.alerts().await?;
        let of_cluster = told.iter().filter(|a| a.fires() && a.label("cluster") == cluster);
        let firing: BTreeSet<_> = of_cluster.map(|alert| alert.label("alertname")).collect();
        for alert in alerts {
            if firing.contains(alert) == fires {
                seen.entry(*alert).or_insert_with(|| began.elapsed());
            } else if !fires {
                // It came back: it has not resolved yet.
                seen.remove(alert);
            }
        }
        if seen.len() == alerts.len() || began.elapsed() > patience {
            return Ok(seen);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use polyraft_etcd_client_tests::trouble::Trouble;

    use super::*;

    const TWO: [Scenario; 2] = [
        Scenario { name: "one", stage: "a", trouble: Trouble::Calm, alerts: &["A", "B"] },
        Scenario { name: "two", stage: "b", trouble: Trouble::Calm, alerts: &["C"] },
    ];

    #[test]
    fn an_alert_without_a_scenario_is_told_and_so_is_the_reverse() {
        let alerts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert!(mismatches(&alerts(&["A", "B", "C", UNSCRAPED]), &TWO).is_empty());
        let found = mismatches(&alerts(&["A", "C", "D", UNSCRAPED]), &TWO);
        assert_eq!(found, ["no scenario sets off D", "there is no alert B"]);
    }

    #[test]
    fn only_what_is_wanted_is_planned() {
        let names = |plan: BTreeMap<_, Vec<Scenario>>| plan.into_keys().collect::<Vec<_>>();
        assert_eq!(names(plan(&TWO, |_| true)), ["a", "b"]);
        assert_eq!(names(plan(&TWO, |alert| alert == "C")), ["b"]);
    }

    #[test]
    fn every_scenario_has_its_stage() {
        let stages: BTreeSet<_> = LAYOUTS.iter().map(|layout| layout.name).collect();
        assert!(SCENARIOS.iter().all(|scenario| stages.contains(scenario.stage)));
        assert_eq!(stages.len(), LAYOUTS.len());
    }

    /// Goal: the damage of a journal can be undone, so that its alerts resolve. Method: its stage keeps the
    /// default size of a journal, 1 GiB, of which a run writes a small part.
    #[test]
    fn a_journal_is_damaged_where_nothing_is_collected() {
        let damaged = SCENARIOS.iter().filter(|s| matches!(s.trouble, Trouble::Damaged(_)));
        let stages: BTreeSet<_> = damaged.map(|scenario| scenario.stage).collect();
        assert!(!stages.is_empty(), "no journal is damaged");
        for layout in LAYOUTS.iter().filter(|layout| stages.contains(layout.name)) {
            assert!(!layout.tables.contains("journal_bytes_max"), "{}", layout.name);
        }
    }
}

//! Verdicts, and what is shown of them.

use super::super::history::{Call, Operation, PutOutcome, ValueId};
use super::*;

fn environment() -> Environment {
    Environment {
        version: "0",
        cores: 2,
        system: "test".into(),
        started_unix_ms: 0,
        seed: 1,
        is_attached: false,
    }
}

/// A run of one keyspace with a write every 100 ms, but for two seconds after a fault at 5 s.
pub fn report(expect: &str, is_proven: bool, violations: Vec<Violation>) -> ChaosReport {
    let text = format!("name = \"sample\"\nduration = \"12s\"\n[expect]\n{expect}");
    let scenario = Scenario::parse(&text, "sample.toml".into()).unwrap();
    let ms = Duration::from_millis;
    let call = Call::Put { value: ValueId(1), outcome: PutOutcome::Acknowledged(2) };
    let history: Vec<_> = (0..120)
        .map(|n| n * 100)
        .filter(|at| !(5_000..7_000).contains(at))
        .map(|at| Operation {
            keyspace: 0,
            key: 0,
            node: 1,
            began: ms(at),
            ended: ms(at + 10),
            call,
        })
        .collect();
    let mut record = FaultRecord::planned("process <kill9>".into(), ms(5_000));
    (record.began, record.ended) = (Some(ms(5_000)), Some(ms(6_000)));
    (record.nodes, record.hit) = (vec![1], vec![0]);
    record.prove(is_proven, "node 1: process 7 died of SIGKILL".into());
    let totals = Totals {
        acknowledged: 100,
        reads: 1,
        audited: 100,
        statuses: 1,
        terms_led: 1,
        ..Totals::default()
    };
    ChaosReport::new(Findings {
        scenario,
        environment: environment(),
        keyspaces: vec!["default".into()],
        totals,
        violations,
        records: vec![record],
        writes: Writes::new(&history, 1),
    })
}

fn gap() -> Violation {
    Violation::Gap { keyspace: "default".into(), from: 2, to: 3 }
}

#[test]
fn what_is_proven_and_kept_is_ok() {
    let report = report("recovery_p99 = \"3s\"\nacknowledged_min = 100", true, vec![]);
    assert_eq!((report.verdict, report.verdict.exit_code()), (Verdict::Ok, 0));
    assert_eq!(report.recovery.max, Duration::from_millis(2_010));
    let text = report.table();
    assert!(text.ends_with("verdict: ok\n") && text.contains("2.010"), "{text}");
}

#[test]
fn a_run_with_nothing_to_judge_is_invalid() {
    let mut report = report("", true, vec![]);
    let unjudged: Vec<_> = unjudged(&report.scenario, &Totals::default()).collect();
    assert_eq!(unjudged.len(), 5, "{unjudged:?}");
    report.scenario.workload.read_share = 0.0;
    assert_eq!(super::unjudged(&report.scenario, &Totals::default()).count(), 4);
    assert_eq!(verdict(&[], &[], &unjudged), Verdict::Invalid);
}

#[test]
fn broken_promises_and_unmet_expectations_are_violations() {
    let broken = report("", true, vec![gap()]);
    assert_eq!((broken.verdict, broken.verdict.exit_code()), (Verdict::Violated, 1));
    assert!(broken.table().contains("VIOLATION default: no write at"), "{}", broken.table());
    let slow = report("recovery_p99 = \"2s\"", true, vec![]);
    assert_eq!((slow.verdict, slow.unmet.len()), (Verdict::Violated, 1));
    let idle = report("acknowledged_min = 101", true, vec![]);
    assert_eq!(idle.unmet, ["acknowledged_min = 101: 100"]);
    // An expectation that nothing was measured for is not met.
    let unmeasured = report("others_recovery_p99 = \"9s\"", true, vec![]);
    assert_eq!(unmeasured.verdict, Verdict::Violated);
}

/// Goal: a run whose fault had no effect proves nothing, but what it broke all the same is broken.
#[test]
fn a_fault_without_effect_makes_the_run_invalid() {
    let unproven = report("recovery_p99 = \"1s\"", false, vec![]);
    assert_eq!((unproven.verdict, unproven.verdict.exit_code()), (Verdict::Invalid, 2));
    assert!(
        unproven.table().contains("NOT PROVEN process <kill9> at 5.0 s"),
        "{}",
        unproven.table()
    );
    assert_eq!(report("", false, vec![gap()]).verdict, Verdict::Violated);
}

#[test]
fn json_holds_everything() {
    let json = serde_json::to_value(report("recovery_p99 = \"3s\"", true, vec![gap()])).unwrap();
    assert_eq!(json["verdict"], "violated");
    assert_eq!(json["violations"][0]["kind"], "gap");
    assert_eq!(json["scenario"]["expect"]["recovery_p99"], "3s");
    assert_eq!(json["faults"][0]["impact"]["recovery"][0]["seconds"], 2.01);
    assert_eq!(json["faults"][0]["proofs"][0]["holds"], true);
    assert_eq!(json["timeline"].as_array().unwrap().len(), 120);
}

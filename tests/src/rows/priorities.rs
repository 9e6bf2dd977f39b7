//! TK-1 by scheduling policy: what a late tick owes to the other threads' turns on the cores.
//!
//! ```text
//! saturated cluster ─ turn by turn: every tick thread plain │ nice −10 │ round robin ─→ lateness each
//!                     meanwhile, the same for a plain thread that only waits (control)
//! ```
//!
//! Tick threads are found by what sets them apart, the priority that the node gave them. The system's
//! own tools change it: `renice` and `chrt`, which need root or `CAP_SYS_NICE`.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Plan;
use super::load::saturate;
use super::meters::{Meters, TICK_LATENESS};
use super::report::{Micros, Report, micros, quantile, record};
use crate::cluster::{Cluster, Shape};
use crate::machines::weight;

const GROUPS: u64 = 16;
/// Callers per group.
const CALLERS: usize = 256;
/// Turns of each policy.
const TURNS: u32 = 4;
/// Between two moments that a control thread waits for.
const CONTROL_PERIOD: Duration = Duration::from_millis(10);
/// Each policy, and the commands that give it to a thread.
const POLICIES: [(&str, [&[&str]; 2]); 3] = [
    ("plain", [&["chrt", "-o", "-p", "0"], &["renice", "-n", "0", "-p"]]),
    ("nice -10", [&["chrt", "-o", "-p", "0"], &["renice", "-n", "-10", "-p"]]),
    ("round robin", [&["chrt", "-r", "-p", "1"], &["renice", "-n", "0", "-p"]]),
];

/// TK-1: how late ticks are at full load, by the policy of their threads.
pub async fn tk_1_policies(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, GROUPS)).await;
    let mut groups = Vec::new();
    for group in 1..=GROUPS {
        groups.push(cluster.leading(group).await);
    }
    let mut report = Report::new(format!(
        "3 nodes, {GROUPS} groups, {} callers, each with one call of 128 bytes at a time; {TURNS} turns \
         per policy",
        GROUPS as usize * CALLERS
    ));
    let ticks = prioritised_threads();
    report.check("tick threads found", ticks.len(), 3, ticks.len() == 3);
    let control = Control::start();
    let mut lateness = POLICIES.map(|_| [micros(), micros()]);
    for _ in 0..TURNS {
        for ((_, commands), all) in POLICIES.iter().zip(&mut lateness) {
            let threads = ticks.iter().chain([&control.thread]);
            threads.for_each(|thread| prioritise(thread, commands));
            drop((Meters::get().take(TICK_LATENESS), control.take()));
            let time = plan.time / (TURNS * POLICIES.len() as u32);
            saturate(&groups, CALLERS, weight(128), time).await;
            let own = [Meters::get().take(TICK_LATENESS), control.take()];
            for (all, own) in all.iter_mut().zip(own) {
                all.add(own).expect("all histograms have the same bounds");
            }
        }
    }
    control.stop();
    cluster.stop_all().await;
    for ((name, _), [ticks, control]) in POLICIES.iter().zip(&lateness) {
        report.histogram(format!("{name}: ticks"), ticks);
        report.histogram(format!("{name}: control"), control);
    }
    let best = lateness.iter().map(|[ticks, _]| quantile(ticks, 0.999)).min();
    let best = best.expect("there are policies");
    report.below("tick lateness p99.9, best policy", best, Duration::from_millis(5));
    report
}

/// This process's threads that are not scheduled as threads are by default.
fn prioritised_threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux lists a process's threads");
    let ids = tasks.flatten().map(|task| task.file_name().to_string_lossy().into_owned());
    ids.filter(|id| is_prioritised(id)).collect()
}

fn is_prioritised(thread: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // proc(5): the name may hold spaces; after it come fields 3 to 52.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<i64>().ok());
    let (nice, policy) = (field(19).unwrap_or(0), field(41).unwrap_or(0));
    nice < 0 || policy != 0
}

fn prioritise(thread: &str, commands: &[&[&str]; 2]) {
    for command in commands {
        let done = Command::new(command[0]).args(&command[1..]).arg(thread).output();
        let done = done.expect("util-linux is installed");
        assert!(done.status.success(), "{command:?} {thread}: {done:?}");
    }
}

/// A thread that only waits.
struct Control {
    thread: String,
    stopped: Arc<AtomicBool>,
    lateness: Arc<Mutex<Micros>>,
    handle: JoinHandle<()>,
}

impl Control {
    fn start() -> Self {
        let (stopped, lateness) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(micros())));
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, all) = (stopped.clone(), lateness.clone());
        let handle = std::thread::spawn(move || {
            let own = fs::read_link("/proc/thread-self").expect("Linux names a thread");
            let id = own.file_name().expect("process/task/thread").to_string_lossy().into_owned();
            tell.send(id).expect("the row listens");
            wait_again_and_again(&stop, &all);
        });
        let thread = told.recv().expect("the thread tells its id first");
        Self { thread, stopped, lateness, handle }
    }

    fn take(&self) -> Micros {
        let mut all = self.lateness.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *all, micros())
    }

    fn stop(self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.handle.join().expect("it only waits");
    }
}

fn wait_again_and_again(stop: &AtomicBool, all: &Mutex<Micros>) {
    let (never, lock) = (Condvar::new(), Mutex::new(()));
    let mut guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
    let mut due = Instant::now() + CONTROL_PERIOD;
    while !stop.load(Ordering::SeqCst) {
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            guard = never.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        record(&mut all.lock().unwrap_or_else(PoisonError::into_inner), due.elapsed());
        due = (due + CONTROL_PERIOD).max(Instant::now());
    }
}

//! Run: one seed from its plan to its report.

use std::sync::Arc;
use std::time::Duration;

use polyraft_core::ids::GroupId;
use tokio::sync::watch;

use super::adversary::Adversary;
use super::clients::{Asker, Running};
use super::judge::SharedJudge;
use super::plan::Plan;
use super::sabotage::{Sabotage, Stores, own_clock};
use super::witness::Witness;
use super::{Report, first_panic, healing};
use crate::memory_node::{MemoryCluster, MemoryOptions};
use crate::sim::Dice;

/// How often statuses are looked at.
const LOOK: Duration = Duration::from_millis(40);

/// A run.
pub struct Run {
    seed: u64,
    sabotage: Option<Sabotage>,
    judge: Arc<SharedJudge>,
}

impl Run {
    /// A run that has not begun.
    pub fn new(seed: u64, sabotage: Option<Sabotage>, trace: bool) -> Self {
        Self { seed, sabotage, judge: Arc::new(SharedJudge::new(trace)) }
    }

    /// Plays it to the end, or to the first thing that is wrong.
    pub async fn play(&self) {
        let mut dice = Dice::new(self.seed);
        let plan = Plan::draw(&mut dice);
        self.judge.lock().chronicle.note(self.seed, || format!("{plan:#?}"));
        let cluster = MemoryCluster::start(plan.nodes, self.options(&plan));
        for group in 1..=plan.groups {
            cluster.create_group(GroupId::new(group)).await;
        }
        let (running, judge) = (Arc::<Running>::default(), self.judge.clone());
        let asker = Asker {
            running: running.clone(),
            judge,
            deadline: plan.deadline,
            sabotage: self.sabotage,
        };
        let (stop, stopped) = watch::channel(false);
        let (judge, roll) = (self.judge.clone(), Dice::new(dice.number()));
        let mut adversary =
            Adversary::new(cluster, (plan.clone(), roll), judge, running.clone(), self.sabotage);
        let looker = actix::spawn(look(running, self.judge.clone()));
        let clients: Vec<_> = (0..plan.clients)
            .map(|_| Dice::new(dice.number()))
            .map(|dice| actix::spawn(asker.clone().work(plan.groups, dice, stopped.clone())))
            .collect();
        adversary.rage().await;
        // A receiver lives in each client that does.
        let _ = stop.send(true);
        for client in clients {
            client.await.expect("clients do not panic");
        }
        if self.judge.lock().failure().is_none() {
            healing::heal(&mut adversary, &asker, plan.groups).await;
        }
        looker.abort();
        self.judge.lock().check_histories();
        let ids: Vec<_> = adversary.cluster.nodes.iter().map(|node| node.id.get()).collect();
        for id in ids {
            adversary.cluster.crash_node(id).await;
        }
    }

    /// What it came to; `panic` is what a run that did not come to its end said.
    pub fn report(&self, panic: Option<String>) -> Report {
        let judge = self.judge.lock();
        Report {
            seed: self.seed,
            hash: judge.chronicle.hash(),
            counts: judge.chronicle.counts().clone(),
            histories: judge.histories(),
            failure: panic.or(judge.failure().map(str::to_owned)),
        }
    }

    fn options(&self, plan: &Plan) -> MemoryOptions {
        let mut options = plan.options(self.seed);
        let (applies, frames) = (self.judge.clone(), self.judge.clone());
        let impurity = if self.is(Sabotage::OwnClock) { own_clock } else { || 0 };
        options.machine = Arc::new(move |node, group| {
            applies.lock().renewed(node, group);
            Box::new(Witness::new(node, applies.clone(), impurity))
        });
        options.observe =
            Arc::new(move |from, to, lane, frame| frames.lock().frame(from, to, lane, frame));
        options.stores = Arc::new(Stores { judge: self.judge.clone(), sabotage: self.sabotage });
        if self.is(Sabotage::RepeatedRequests) {
            options.weather.repeats_requests = true;
            options.weather.repeat_per_mille = 100;
        }
        options.refuses_foreign_data = !self.is(Sabotage::WipedAdmitted);
        options
    }

    fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }
}

/// Shows the judge what every node publishes, and whether anything panicked.
async fn look(running: Arc<Running>, judge: Arc<SharedJudge>) {
    loop {
        for node in running.all() {
            for (_, cell) in node.directory.groups() {
                judge.lock().status(node.node, cell.status());
            }
        }
        if let Some(panic) = first_panic() {
            judge.lock().blame("no panic", panic);
        }
        tokio::time::sleep(LOOK).await;
    }
}

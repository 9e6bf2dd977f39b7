//! Goal: a stopped node leaves nothing behind in the embedder's process (SH-3, RT-4).
//! Method: a cluster is started, used and stopped again and again, in a process of its own, and the
//! process's threads and files are counted between the rounds.

use std::time::Duration;

use polyraft_tests::cluster::{Cluster, Shape, insist, wait_until};
use polyraft_tests::machines::add;

/// Rounds before counting begins: runtimes and allocators keep what they needed once.
const WARM_UP: usize = 1;

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).expect("a Linux process").count()
}

async fn round(ends_in_order: bool) {
    let mut cluster = Cluster::start(Shape::new(3, 8)).await;
    for group in 1..=8 {
        insist(&cluster.leading(group).await, add("used")).await;
    }
    if ends_in_order {
        cluster.stop_all().await;
    } else {
        cluster.running().into_iter().for_each(|node| cluster.kill(node));
    }
}

/// SH-3: five rounds of start, use and end return threads and files to where they were.
#[test]
fn rounds_leak_neither_threads_nor_files() {
    // The test's own threads for blocking calls are gone at once: by default each stays for ten idle
    // seconds, and how many there were at the first count is chance.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_millis(50))
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(rounds());
}

async fn rounds() {
    for n in 0..WARM_UP {
        round(n % 2 == 0).await;
    }
    let settle = Duration::from_secs(20);
    wait_until(settle, "the first round's threads are gone", || count("task") <= 8).await;
    let (tasks, files) = (count("task"), count("fd"));
    for n in 0..5 {
        round(n != 3).await;
        // What was dropped and not stopped ends by itself, a moment later.
        let back = || count("task") <= tasks && count("fd") <= files;
        let what = format!("round {n}: {tasks} threads and {files} files, as before");
        wait_until(settle, &what, back).await;
    }
}

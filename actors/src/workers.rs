//! Workers: threads on which state machines run, so that no actor ever waits for one.
//!
//! ```text
//! Applier ─slice (state, machine, entries)→ [worker] ─slice done→ Applier
//! ```
//!
//! An applier has at most one job here at a time, so a group that sleeps in `apply` holds one
//! worker and delays nobody while others are free (AP-10). The queue is bounded by the number of
//! groups. Threads are started when they are first needed, up to the limit.
//!
//! Promise: every job runs, once; [`LocalWorkers`] runs them on the current thread, in order.
//! A job must not panic: whoever submits it catches its own panics.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use actix::ArbiterHandle;

/// Work that may block.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs away from the actors' threads.
pub trait Workers: Send + Sync + 'static {
    /// Runs `job` as soon as a worker is free. Never blocks.
    fn run(&self, job: Job);

    /// Drops the jobs that wait and joins the threads after their current job. Idempotent.
    fn stop(&self);
}

/// Default limit of [`ThreadWorkers`]: sleeping machines cost a stack each, not a core.
pub const WORKERS_MAX_DEFAULT: usize = 16;

/// A bounded pool of threads over one queue.
pub struct ThreadWorkers {
    pool: Arc<Pool>,
    threads_max: usize,
}

struct Pool {
    queue: Mutex<Queue>,
    job_added: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    stopped: bool,
}

impl ThreadWorkers {
    /// A pool of at most `threads_max` threads, at least 1; none is started yet.
    ///
    /// # Panics
    /// If `threads_max` is 0.
    pub fn new(threads_max: usize) -> Self {
        assert!(threads_max > 0, "a pool without threads would never run a job");
        let pool = Pool { queue: Mutex::default(), job_added: Condvar::new() };
        Self { pool: Arc::new(pool), threads_max }
    }

    /// Starts a thread if every other is busy and the limit allows it.
    fn grow(&self, queue: &mut Queue) {
        if queue.jobs.len() <= queue.idle || queue.threads.len() >= self.threads_max {
            return;
        }
        let pool = Arc::clone(&self.pool);
        let name = format!("polyraft-apply-{}", queue.threads.len());
        match thread::Builder::new().name(name).spawn(move || pool.work()) {
            Ok(thread) => queue.threads.push(thread),
            // With others running the job only waits longer.
            Err(error) if !queue.threads.is_empty() => {
                tracing::warn!(%error, "cannot start another apply worker");
            }
            Err(error) => panic!("cannot start the first apply worker: {error}"),
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no job runs while the queue is locked")
    }

    fn work(&self) {
        while let Some(job) = self.next_job() {
            job();
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.stopped {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue.idle += 1;
            queue = self.job_added.wait(queue).expect("no job runs while the queue is locked");
            queue.idle -= 1;
        }
    }
}

impl Workers for ThreadWorkers {
    fn run(&self, job: Job) {
        let mut queue = self.pool.lock();
        if queue.stopped {
            return;
        }
        queue.jobs.push_back(job);
        self.grow(&mut queue);
        drop(queue);
        self.pool.job_added.notify_one();
    }

    fn stop(&self) {
        let mut queue = self.pool.lock();
        queue.stopped = true;
        let dropped = std::mem::take(&mut queue.jobs);
        let threads = std::mem::take(&mut queue.threads);
        drop(queue);
        drop(dropped);
        self.pool.job_added.notify_all();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("an apply worker panicked outside its job");
            }
        }
    }
}

impl Drop for ThreadWorkers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs each job as a task of one arbiter: for the deterministic, single-threaded runs.
#[derive(Debug, Clone)]
pub struct LocalWorkers {
    arbiter: ArbiterHandle,
}

impl LocalWorkers {
    /// Workers on the current arbiter.
    ///
    /// # Panics
    /// Outside an actix `System`.
    pub fn current() -> Self {
        Self { arbiter: actix::Arbiter::current() }
    }
}

impl Workers for LocalWorkers {
    fn run(&self, job: Job) {
        // False means that the system is stopping, and the job with it.
        self.arbiter.spawn_fn(job);
    }

    /// Nothing: jobs end with their arbiter.
    fn stop(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_blocked_job_holds_one_worker_only() {
        let workers = ThreadWorkers::new(2);
        let (release, blocked) = mpsc::channel::<()>();
        let (done, results) = mpsc::channel();
        workers.run(Box::new(move || blocked.recv().expect("released by the test")));
        for n in 0..100 {
            let done = done.clone();
            workers.run(Box::new(move || done.send(n).expect("the test listens")));
        }
        let mut seen: Vec<i32> = results.iter().take(100).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        release.send(()).expect("the first job waits");
        workers.stop();
        workers.stop();
    }

    #[test]
    fn threads_are_bounded() {
        let workers = ThreadWorkers::new(3);
        let (done, results) = mpsc::channel();
        for _ in 0..1_000 {
            let done = done.clone();
            workers.run(Box::new(move || {
                done.send(thread::current().id()).expect("the test listens");
            }));
        }
        let ids: Vec<_> = results.iter().take(1_000).collect();
        let distinct: std::collections::HashSet<_> = ids.into_iter().collect();
        assert!(distinct.len() <= 3, "{} threads", distinct.len());
    }
}

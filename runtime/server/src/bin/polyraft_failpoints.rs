//! `polyraft` with failpoints in force, for crash tests.
//!
//! ```text
//! FAILPOINT_FILE=FILE polyraft-failpoints node …      FILE, once it is there: STEP HITS abort|error
//! FAILPOINT_LIST=1 polyraft-failpoints                prints the name of every step
//! ```
//!
//! Promise: the file is read once, at the first step after it appeared. At the given step's hit of that
//! number, from 1, the process says so on its standard error, and then ends as by a crash, or the step
//! fails, once.
//! Not here: the steps (`polyraft_core::failpoint`).

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use polyraft::failpoint::{Step, set_handler};

#[path = "../main.rs"]
mod polyraft_main;

fn main() -> ExitCode {
    if std::env::var_os("FAILPOINT_LIST").is_some() {
        Step::ALL.iter().for_each(|step| println!("{}", step.as_str()));
        return ExitCode::SUCCESS;
    }
    set_handler(at_step);
    polyraft_main::main()
}

/// What the file says.
struct Armed {
    step: String,
    hits_left: Mutex<u64>,
    aborts: bool,
}

static FILE: LazyLock<Option<OsString>> = LazyLock::new(|| std::env::var_os("FAILPOINT_FILE"));
static ARMED: OnceLock<Armed> = OnceLock::new();

fn at_step(step: Step) -> bool {
    let Some(armed) = ARMED.get().or_else(arm) else { return false };
    if armed.step != step.as_str() {
        return false;
    }
    let mut left = armed.hits_left.lock().unwrap_or_else(PoisonError::into_inner);
    if *left == 0 {
        return false;
    }
    *left -= 1;
    if *left > 0 {
        return false;
    }
    eprintln!("failpoint {} hit", armed.step);
    if armed.aborts {
        std::process::abort();
    }
    true
}

fn arm() -> Option<&'static Armed> {
    let text = std::fs::read_to_string(FILE.as_ref()?).ok()?;
    let words: Vec<_> = text.split_whitespace().collect();
    let [step, hits, action @ ("abort" | "error")] = words[..] else {
        panic!("{text:?} is not STEP HITS abort|error");
    };
    let hits_left = Mutex::new(hits.parse().expect("hits are a number"));
    Some(ARMED.get_or_init(|| Armed { step: step.into(), hits_left, aborts: action == "abort" }))
}

//! Fuzzes every decoder that reads bytes of a peer, a disk, a client or a person (RL-5).
//!
//! ```text
//! FUZZ_TARGET=name polyraft-fuzz corpus/name       bytes → target → decoder → properties
//! FUZZ_SEEDS=DIR polyraft-fuzz                     real encodings → DIR/name/…
//! ```
//!
//! One binary holds all targets, so that it is linked once. A target is a function of the bytes that
//! panics when a property does not hold; where a checksum would keep libFuzzer out, it mends the
//! checksums of what it was given. `run.sh` builds this and runs every target.

#![no_main]

mod batch;
mod config;
mod etcd;
mod files;
mod journal;
mod redo;
mod replica;
mod script;
mod state;
mod transport;
mod wire;

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// One decoder, or what stands behind it.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    /// Inputs made of real encodings.
    seeds: fn() -> Vec<Vec<u8>>,
}

const TARGETS: &[Target] = &[
    Target { name: "frame", run: transport::frame, seeds: transport::frame_seeds },
    Target { name: "hello", run: transport::hello, seeds: transport::hello_seeds },
    Target { name: "wire", run: wire::run, seeds: wire::seeds },
    Target { name: "batch", run: batch::run, seeds: batch::seeds },
    Target { name: "replica", run: replica::run, seeds: replica::seeds },
    Target { name: "journal", run: journal::run, seeds: journal::seeds },
    Target { name: "redo", run: redo::run, seeds: redo::seeds },
    Target { name: "state", run: state::run, seeds: state::seeds },
    Target { name: "files", run: files::run, seeds: files::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "etcd", run: etcd::run, seeds: etcd::seeds },
];

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names the target");
    let named = TARGETS.iter().find(|target| target.name == name);
    named.unwrap_or_else(|| panic!("no target is called {name:?}"))
});

fuzz_target!(init: write_seeds_if_asked(), |data: &[u8]| (TARGET.run)(data));

/// Writes every target's seeds and exits, if `FUZZ_SEEDS` names a folder.
fn write_seeds_if_asked() {
    let Some(dir) = std::env::var_os("FUZZ_SEEDS") else { return };
    for target in TARGETS {
        let dir = Path::new(&dir).join(target.name);
        std::fs::create_dir_all(&dir).expect("the folder can be made");
        for (at, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{at:02}")), seed).expect("there is room");
        }
        println!("{}", target.name);
    }
    std::process::exit(0);
}

//! Judges a cluster from outside, through the public `etcd-client` crate.
//!
//! ```text
//! load ─put→ cluster        acknowledged, unknown → Ledger (a file)
//! verify ─range, HashKV→ cluster, Ledger → verdict: lost, duplicated, damaged, diverged
//! ```
//!
//! Promise: a key is put once and never again, so that every acknowledged put must be found with the
//! revision that was acknowledged and version 1, for ever. An outcome that the client could not learn
//! is recorded as unknown: it may be there, but at most once.
//!
//! A package of its own, because `etcd-client` needs `protoc` to build and polyraft does not.

pub mod admin;
pub mod alert_scenarios;
pub mod arguments;
pub mod comparison;
pub mod dashboards;
pub mod dice;
pub mod disk;
pub mod endpoints;
pub mod etcd_process;
pub mod failpoints;
pub mod keyspaces;
pub mod ledger;
pub mod load;
pub mod member;
pub mod nats_client;
pub mod nats_process;
pub mod node_process;
pub mod outcome;
pub mod plain_http;
mod ports;
pub mod prometheus_process;
pub mod registers;
pub mod short_rules;
pub mod stage;
pub mod table;
pub mod traffic;
pub mod trouble;
pub mod verify;
pub mod webdriver;

//! Chaos: a cluster under load and faults, and a verdict on what it promised.
//!
//! ```text
//! SCENARIO.toml ─→ Scenario ─┬→ Processes: nodes of our own    or the addresses of a running cluster
//!                            ├→ Load      ─requests→ nodes ─answers→ history ──────────┐
//!                            ├→ Injector  ─faults→ nodes, processes ─proofs→ records ──┤
//!                            └→ Poller    ─/status→ nodes ─→ view, sightings ──────────┤
//!                               Audit: after the faults, what does each keyspace hold? ┤
//!                               judge, impact ←────────────────────────────────────────┘
//!                                  └→ ChaosReport: ok, violated or invalid; JSON, HTML
//! ```
//!
//! Promise: a verdict of `ok` means that every fault is proven to have been there, and that no promise
//! of the product was seen broken. It speaks to nodes as clients and operators do, and knows nothing of
//! what is inside them.

pub mod audit;
pub mod chaos_report;
pub mod endpoint;
pub mod fault_record;
pub mod history;
pub mod impact;
pub mod injection;
pub mod injector;
pub mod judge;
pub mod nodes;
pub mod page;
pub mod processes;
pub mod run;
pub mod scenario;
pub mod sightings;
pub mod timed_fault;
pub mod victims;
pub mod violation;
pub mod workload;

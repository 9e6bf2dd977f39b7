//! What sets off each alert, and on which stage.
//!
//! ```text
//! stage "processes"  dead, restarted, in turn         stage "disks"    slow, still, full, broken
//! stage "identity"   certificates, data                stage "entries"  one keyspace: lag, actors
//! stage "room"       maps that are nearly full
//! ```
//!
//! Promise: troubles on one stage follow each other, so that none masks another; stages play at the same
//! time. One trouble may show several alerts. Not here: the rules themselves.

use std::time::Duration;

use crate::stage::Layout;
use crate::traffic::Amount;
use crate::trouble::Trouble::{self, *};

/// What must fire when this happens, and resolve when it is over.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name, for people.
    pub name: &'static str,
    /// Where it is set off.
    pub stage: &'static str,
    /// What happens.
    pub trouble: Trouble,
    /// The alerts that show it.
    pub alerts: &'static [&'static str],
}

/// The alert of a Prometheus that scrapes nothing: it is set off without a stage.
pub const UNSCRAPED: &str = "PolyraftScrapeMissing";

const TRAFFIC: Amount =
    Amount { keyspaces: 4, clients: 9, pause: Duration::from_millis(200), value_bytes: 128 };

const fn layout(name: &'static str, tables: &'static str) -> Layout {
    Layout { name, keyspaces: 4, profile: "dev", tables, traffic: TRAFFIC }
}

/// The stages.
pub const LAYOUTS: [Layout; 5] = [
    layout("processes", ""),
    layout("disks", ""),
    layout("identity", ""),
    Layout {
        keyspaces: 1,
        traffic: Amount { keyspaces: 1, ..TRAFFIC },
        ..layout(
            "entries",
            "[batching]\nenabled = false\n[limits]\ncatch_up_bytes = \"4KiB\"\n\
             [storage]\njournal_bytes_max = \"4KiB\"\n",
        )
    },
    layout("room", "[storage]\nstate_map_bytes = \"48MiB\"\n"),
];

const fn scenario(
    stage: &'static str,
    name: &'static str,
    trouble: Trouble,
    alerts: &'static [&'static str],
) -> Scenario {
    Scenario { name, stage, trouble, alerts }
}

/// Every scenario, in the order of its stage.
pub const SCENARIOS: [Scenario; 21] = [
    scenario(
        "processes",
        "a node is dead",
        Killed(&[2]),
        &["PolyraftNodeDown", "PolyraftLinkDown"],
    ),
    scenario(
        "processes",
        "a majority is dead",
        Together(&[Killed(&[1, 2]), Flooded(60, Duration::from_millis(500), 64)]),
        &[
            "PolyraftNodesInsufficient",
            "PolyraftGroupWithoutLeader",
            "PolyraftProposalFailures",
            "PolyraftProposalFailuresMany",
            "PolyraftProposalsPending",
            "PolyraftReadFailures",
            "PolyraftReadsSlow",
            "PolyraftRequestFailures",
            "PolyraftRequestFailuresMany",
        ],
    ),
    scenario("processes", "a node dies six times", Restarted(2, 6), &["PolyraftNodeRestarting"]),
    scenario("processes", "two nodes run in turn", InTurn(0, 1), &["PolyraftLinkSlow"]),
    scenario(
        "processes",
        "ticks come late",
        // On every node: whoever leads by then sends late.
        Again(
            &[0, 1, 2],
            r#"{"kind":"stall_actor","actor":"tick","for":"2300ms"}"#,
            Duration::from_millis(2_800),
        ),
        &["PolyraftHeartbeatsLate"],
    ),
    scenario(
        "disks",
        "every disk is slow",
        Injected(&[0, 1, 2], r#"{"kind":"disk","store":"both","delay":"1500ms"}"#),
        &[
            "PolyraftFsyncSlow",
            "PolyraftFsyncVerySlow",
            "PolyraftLogCommitSlow",
            "PolyraftStateFlushSlow",
            "PolyraftProposalsSlow",
            "PolyraftRequestsSlow",
        ],
    ),
    scenario(
        "disks",
        "a disk stands still",
        Injected(&[1], r#"{"kind":"disk","store":"both","stall":true}"#),
        &["PolyraftDiskStalled"],
    ),
    scenario(
        "disks",
        "a disk is full",
        Injected(&[2], r#"{"kind":"disk","store":"both","full":true}"#),
        &["PolyraftLogFull", "PolyraftStateFull"],
    ),
    scenario(
        "disks",
        "a disk fails",
        Broken(&[0], r#"{"kind":"disk","store":"log","error":"eio"}"#),
        &["PolyraftStorageFailed"],
    ),
    scenario(
        "disks",
        "a clock is stepped",
        Injected(&[0], r#"{"kind":"clock","step":"+1s"}"#),
        &["PolyraftFaultsInForce"],
    ),
    scenario(
        "identity",
        "a certificate of another authority",
        WrongAuthority(1),
        &["PolyraftHandshakesRefused"],
    ),
    scenario(
        "identity",
        "a certificate of one day",
        ExpiringCertificate(1),
        &["PolyraftCertificateExpiring", "PolyraftCertificateExpiringSoon"],
    ),
    scenario(
        "identity",
        "a certificate file is spoiled",
        SpoiledCertificate(0),
        &["PolyraftCertificateReloadFailed"],
    ),
    scenario(
        "identity",
        "a node has lost its data",
        Wiped(2),
        &["PolyraftPeerDataReplaced", "PolyraftLinkFlapping"],
    ),
    scenario(
        "identity",
        "a byte of the journal is wrong",
        Damaged(2),
        &["PolyraftChecksumFailures", "PolyraftGroupsFaulted"],
    ),
    scenario(
        "entries",
        "appliers stand still",
        Together(&[
            Injected(&[0, 2], r#"{"kind":"stall_actor","actor":"applier","group":1,"for":"10m"}"#),
            Flooded(32, Duration::ZERO, 64),
        ]),
        &["PolyraftApplyLag"],
    ),
    scenario(
        "entries",
        "a node is dead under load",
        Together(&[Killed(&[2]), Flooded(32, Duration::ZERO, 64)]),
        &["PolyraftReplicationLag"],
    ),
    scenario(
        "entries",
        "a journal that is too small for its load",
        Flooded(64, Duration::ZERO, 2_000),
        &["PolyraftJournalNotCollected"],
    ),
    scenario(
        "entries",
        "actors die",
        Again(
            &[0, 1, 2],
            r#"{"kind":"kill_actor","actor":"group","group":1,"mode":"panic"}"#,
            Duration::from_millis(1_000),
        ),
        &["PolyraftActorsRestarting", "PolyraftLeaderChangesHigh"],
    ),
    scenario(
        "entries",
        "groups stand still under a flood",
        Together(&[
            Injected(&[0, 1, 2], r#"{"kind":"stall_actor","actor":"group","group":1,"for":"15s"}"#),
            Flooded(900, Duration::ZERO, 64),
        ]),
        &["PolyraftMailboxPressure"],
    ),
    scenario(
        "room",
        "the state outgrows its map",
        Filled,
        &["PolyraftMapHeadroomLow", "PolyraftMapHeadroomGone", "PolyraftStorageGrowing"],
    ),
];

//! `polyraft status`: a node's own report, as a table or as JSON.

use std::fmt::Write;

use clap::Args;

use super::CommandError;
use super::admin_args::{AdminArgs, Table};
use crate::report::{NodeReport, PeerReport};

/// Arguments of `polyraft status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) async fn run(args: StatusArgs) -> Result<(), CommandError> {
    args.admin.show("/status", table).await
}

fn table(report: &NodeReport) -> String {
    let mut text = format!(
        "node {} of cluster {:?}, {} groups, {} KiB on disk\n",
        report.node,
        report.cluster,
        report.groups.len(),
        report.storage_bytes >> 10
    );
    if let Some(failure) = &report.storage_failure {
        let _ = writeln!(text, "  acknowledges nothing any more, restart it: {failure}");
    }
    for peer in &report.peers {
        let _ = writeln!(text, "  peer {} at {}: {}", peer.node, peer.address, link(peer));
    }
    let mut groups =
        Table::new(["keyspace", "role", ">term", ">leader", ">commit", ">applied", "health"]);
    for group in &report.groups {
        groups.push([
            group.name.clone(),
            group.role.clone(),
            group.term.to_string(),
            group.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            group.commit.to_string(),
            group.applied.to_string(),
            group.health.clone(),
        ]);
    }
    text + "\n" + &groups.text()
}

fn link(peer: &PeerReport) -> String {
    match (peer.connected, peer.round_trip_us, &peer.last_error) {
        (true, Some(us), _) => format!("connected, round trip {us} µs"),
        (true, None, _) => "connected".to_owned(),
        (false, _, Some(error)) => format!("not connected: {error}"),
        (false, _, None) => "not connected".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::GroupReport;

    #[test]
    fn a_table_shows_links_and_groups() {
        let report = NodeReport {
            node: 1,
            cluster: "dev".into(),
            storage_bytes: 4096,
            storage_failure: None,
            certificates: None,
            refused: Default::default(),
            peers: vec![PeerReport {
                node: 2,
                address: "127.0.0.1:2480".into(),
                connected: false,
                round_trip_us: None,
                own_certificate_is_current: None,
                certificate: None,
                last_error: Some("refused".into()),
            }],
            groups: vec![GroupReport {
                group: 1,
                name: "default".into(),
                health: "healthy".into(),
                role: "follower".into(),
                term: 3,
                leader: None,
                commit: 9,
                applied: 8,
                voters: 3,
            }],
        };
        let expected = "\
node 1 of cluster \"dev\", 1 groups, 4 KiB on disk
  peer 2 at 127.0.0.1:2480: not connected: refused

keyspace  role      term  leader  commit  applied  health
default   follower     3    none       9        8  healthy
";
        assert_eq!(table(&report), expected);
        let failed = NodeReport { storage_failure: Some("the log: EIO".into()), ..report };
        assert!(
            table(&failed)
                .contains("\n  acknowledges nothing any more, restart it: the log: EIO\n")
        );
    }
}

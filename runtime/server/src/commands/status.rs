//! `polyraft status`: a node's own report, as a table or as JSON.

use std::fmt::Write;

use clap::Args;

use super::CommandError;
use crate::admin_client;
use crate::report::NodeReport;

/// Arguments of `polyraft status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The node's admin address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2381")]
    admin: String,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: StatusArgs) -> Result<(), CommandError> {
    let body = admin_client::get(&args.admin, "/status").await?;
    let report: NodeReport = serde_json::from_slice(&body)
        .map_err(|source| CommandError::Answer { address: args.admin.clone(), source })?;
    if args.json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        print!("{}", table(&report));
    }
    Ok(())
}

fn table(report: &NodeReport) -> String {
    let mut text = format!(
        "node {} of cluster {:?}, {} groups, {} KiB on disk\n",
        report.node,
        report.cluster,
        report.groups.len(),
        report.storage_bytes >> 10
    );
    for peer in &report.peers {
        let state = match (peer.connected, peer.round_trip_us, &peer.last_error) {
            (true, Some(us), _) => format!("connected, round trip {us} µs"),
            (true, None, _) => "connected".to_owned(),
            (false, _, Some(error)) => format!("not connected: {error}"),
            (false, _, None) => "not connected".to_owned(),
        };
        let _ = writeln!(text, "  peer {} at {}: {state}", peer.node, peer.address);
    }
    let name_len = report.groups.iter().map(|group| group.name.len()).max().unwrap_or(0).max(8);
    let _ = writeln!(
        text,
        "\n{:<name_len$}  {:<13} {:>6} {:>6} {:>10} {:>10}  health",
        "keyspace", "role", "term", "leader", "commit", "applied"
    );
    for group in &report.groups {
        let leader = group.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
        let _ = writeln!(
            text,
            "{:<name_len$}  {:<13} {:>6} {leader:>6} {:>10} {:>10}  {}",
            group.name, group.role, group.term, group.commit, group.applied, group.health
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{GroupReport, PeerReport};

    #[test]
    fn a_table_shows_links_and_groups() {
        let report = NodeReport {
            node: 1,
            cluster: "dev".into(),
            storage_bytes: 4096,
            storage_failure: None,
            peers: vec![PeerReport {
                node: 2,
                address: "127.0.0.1:2480".into(),
                connected: false,
                round_trip_us: None,
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

keyspace  role            term leader     commit    applied  health
default   follower           3   none          9          8  healthy
";
        assert_eq!(table(&report), expected);
    }
}

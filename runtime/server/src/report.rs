//! What a node says about itself as JSON, made from published snapshots: a status never waits for a
//! group.

use std::collections::BTreeMap;

use polyraft::{CertificateFacts, CertificateStatus, GroupStatus, Health, LinkStatus, NodeStatus};
use serde::{Deserialize, Serialize};

/// A node as of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node's id.
    pub node: u64,
    /// The cluster's name.
    pub cluster: String,
    /// Bytes on disk.
    pub storage_bytes: u64,
    /// Why the node acknowledges nothing any more, if a store has failed.
    #[serde(default)]
    pub storage_failure: Option<String>,
    /// The certificates in force.
    #[serde(default)]
    pub certificates: Option<CertificatesReport>,
    /// How often connections were refused or given up since the start, by reason; none that never was.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Links to the other nodes.
    pub peers: Vec<PeerReport>,
    /// The groups with a replica here.
    pub groups: Vec<GroupReport>,
}

/// A link to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The peer's node id.
    pub node: u64,
    /// Its configured address.
    pub address: String,
    /// Whether a connection is up.
    pub connected: bool,
    /// Smoothed round trip in microseconds, if connected.
    pub round_trip_us: Option<u64>,
    /// Whether the connection was made with the certificate that this node has now, if connected.
    #[serde(default)]
    pub own_certificate_is_current: Option<bool>,
    /// The certificate that the peer has shown, if connected.
    #[serde(default)]
    pub certificate: Option<CertificateReport>,
    /// Why the last attempt or connection ended.
    pub last_error: Option<String>,
}

/// A node's certificates, and what became of attempts to replace them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesReport {
    /// The node's own.
    pub leaf: CertificateReport,
    /// Those of the authorities that it trusts.
    pub authorities: Vec<CertificateReport>,
    /// How often other files came into force since the start.
    pub reloads: u64,
    /// How often files were refused since the start.
    pub reloads_failed: u64,
    /// Why the files that are there now are not in force.
    pub last_error: Option<String>,
}

/// One certificate. Times are in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// Whose it is.
    pub subject: String,
    /// The authority that signed it.
    pub issuer: String,
    /// When it begins to be valid.
    pub not_before: u64,
    /// When it ends.
    pub not_after: u64,
}

/// One replica of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The group's id.
    pub group: u64,
    /// Its name: the keyspace.
    pub name: String,
    /// `healthy`, `restarting`, `stopped`, or `faulted: ` and the reason.
    pub health: String,
    /// The replica's role.
    pub role: String,
    /// Its term.
    pub term: u64,
    /// The leader's node, if known.
    pub leader: Option<u64>,
    /// The last committed index known here.
    pub commit: u64,
    /// The last applied index.
    pub applied: u64,
    /// Voters in the configuration in force.
    pub voters: usize,
}

impl GroupReport {
    /// Why clients cannot be served by this group here, if they cannot.
    pub fn unready(&self) -> Option<String> {
        if self.health != HEALTHY {
            return Some(format!("{}: {}", self.name, self.health));
        }
        self.leader.is_none().then(|| format!("{}: no leader", self.name))
    }
}

const HEALTHY: &str = "healthy";

impl From<NodeStatus> for NodeReport {
    fn from(status: NodeStatus) -> Self {
        let mut groups: Vec<_> = status.groups.iter().map(GroupReport::from).collect();
        groups.sort_by_key(|group| group.group);
        Self {
            node: status.node.get(),
            cluster: status.cluster,
            storage_bytes: status.storage_bytes,
            storage_failure: status.storage_failure,
            certificates: Some(status.certificates.into()),
            refused: refused(&status.handshake_failures),
            peers: status.peers.iter().map(PeerReport::from).collect(),
            groups,
        }
    }
}

fn refused(failures: &[(&'static str, u64)]) -> BTreeMap<String, u64> {
    let some = failures.iter().filter(|(_, count)| *count > 0);
    some.map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

impl From<&LinkStatus> for PeerReport {
    fn from(link: &LinkStatus) -> Self {
        Self {
            node: link.peer.get(),
            address: link.address.clone(),
            connected: link.connected,
            round_trip_us: link.round_trip_us,
            own_certificate_is_current: link.certificates.as_ref().map(|c| c.own_is_current),
            certificate: link.certificates.as_ref().map(|c| (&c.peer).into()),
            last_error: link.last_error.clone(),
        }
    }
}

impl From<CertificateStatus> for CertificatesReport {
    fn from(status: CertificateStatus) -> Self {
        Self {
            leaf: (&status.leaf).into(),
            authorities: status.authorities.iter().map(CertificateReport::from).collect(),
            reloads: status.reloads,
            reloads_failed: status.reloads_failed,
            last_error: status.last_error,
        }
    }
}

impl From<&CertificateFacts> for CertificateReport {
    fn from(facts: &CertificateFacts) -> Self {
        Self {
            serial: facts.serial.clone(),
            subject: facts.subject.clone(),
            issuer: facts.issuer.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
        }
    }
}

impl From<&GroupStatus> for GroupReport {
    fn from(status: &GroupStatus) -> Self {
        let health = match &status.health {
            Health::Healthy => HEALTHY.to_owned(),
            Health::Restarting => "restarting".to_owned(),
            Health::Faulted(reason) => format!("faulted: {reason}"),
            Health::Stopped => "stopped".to_owned(),
        };
        Self {
            group: status.group.get(),
            name: status.name.to_string(),
            health,
            role: status.role.as_str().to_owned(),
            term: status.term.get(),
            leader: status.leader.map(|leader| leader.get()),
            commit: status.commit.get(),
            applied: status.applied.get(),
            voters: status.configuration.voters.len(),
        }
    }
}

/// Whether a node serves all of its groups: at least `groups_expected`, each healthy and led, over
/// stores that work.
///
/// # Errors
/// One line per reason why it does not.
pub fn readiness(report: &NodeReport, groups_expected: usize) -> Result<(), Vec<String>> {
    let mut reasons: Vec<_> = report.groups.iter().filter_map(GroupReport::unready).collect();
    if report.groups.len() < groups_expected {
        reasons.push(format!("{} of {groups_expected} groups are open", report.groups.len()));
    }
    reasons.extend(report.storage_failure.clone());
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, health: &str, leader: Option<u64>) -> GroupReport {
        GroupReport {
            group: 1,
            name: name.into(),
            health: health.into(),
            role: "follower".into(),
            term: 3,
            leader,
            commit: 9,
            applied: 9,
            voters: 3,
        }
    }

    fn node(groups: Vec<GroupReport>) -> NodeReport {
        NodeReport {
            node: 1,
            cluster: "dev".into(),
            storage_bytes: 0,
            storage_failure: None,
            certificates: None,
            refused: Default::default(),
            peers: vec![],
            groups,
        }
    }

    #[test]
    fn a_node_whose_store_failed_is_not_ready_whatever_its_groups_last_said() {
        let mut failed = node(vec![group("a", "healthy", Some(1))]);
        failed.storage_failure = Some("the Log store failed: EIO".into());
        assert_eq!(readiness(&failed, 1), Err(vec!["the Log store failed: EIO".into()]));
    }

    #[test]
    fn a_node_is_ready_when_every_group_is_healthy_and_led() {
        let healthy = node(vec![group("a", "healthy", Some(2)), group("b", "healthy", Some(1))]);
        assert_eq!(readiness(&healthy, 2), Ok(()));
        assert_eq!(readiness(&healthy, 3), Err(vec!["2 of 3 groups are open".into()]));
        let broken = node(vec![
            group("a", "healthy", None),
            group("b", "faulted: disk", Some(1)),
            group("c", "healthy", Some(1)),
        ]);
        let reasons = readiness(&broken, 3).unwrap_err();
        assert_eq!(reasons, ["a: no leader", "b: faulted: disk"]);
        assert!(readiness(&node(vec![]), 1).is_err());
    }

    #[test]
    fn a_report_survives_json() {
        let report = node(vec![group("a", "healthy", None)]);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<NodeReport>(&json).unwrap(), report);
    }
}

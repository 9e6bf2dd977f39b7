//! What every node of a cluster must say alike: its name, its nodes, its timing, its groups.
//!
//! A type of its own, so that it is plain which half of a configuration file is copied to every
//! node and which half is written for one.

use std::collections::BTreeMap;

use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::ports::PeerAddress;

use crate::config_error::{ConfigErrors, Findings};
use crate::profile::{EffectiveTiming, Profile, TimingConfig};

/// Longest cluster or group name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// The cluster as all of its nodes know it. Made by [`ClusterConfig::builder`]; valid by
/// construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    name: String,
    nodes: Vec<PeerAddress>,
    profile: Profile,
    timing: TimingConfig,
    groups: Vec<GroupSpec>,
}

impl ClusterConfig {
    /// Starts a cluster called `name`: 1 to 63 of `a-z`, `0-9` and `-`. It is part of every node's
    /// certificate, so that nodes of two clusters never talk.
    pub fn builder(name: impl Into<String>) -> ClusterConfigBuilder {
        ClusterConfigBuilder { name: Some(name.into()), ..ClusterConfigBuilder::default() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its nodes and where they listen, ascending by id.
    pub fn nodes(&self) -> &[PeerAddress] {
        &self.nodes
    }

    /// The address of `node`, if it is in the cluster.
    pub fn address_of(&self, node: NodeId) -> Option<&str> {
        self.nodes.iter().find(|peer| peer.node == node).map(|peer| peer.address.as_str())
    }

    /// The profile that the timing started from.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The timing as asked for.
    pub fn timing(&self) -> &TimingConfig {
        &self.timing
    }

    /// The timing in force.
    pub fn effective_timing(&self) -> EffectiveTiming {
        self.timing.convert()
    }

    /// Groups that exist from the cluster's first start, ascending by id.
    pub fn groups(&self) -> &[GroupSpec] {
        &self.groups
    }
}

/// A group that exists from the cluster's first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    id: GroupId,
    name: String,
    nodes: Vec<NodeId>,
}

impl GroupSpec {
    /// A group with a replica on every node of the cluster.
    pub fn new(id: GroupId, name: impl Into<String>) -> Self {
        Self { id, name: name.into(), nodes: Vec::new() }
    }

    /// Restricts it to `nodes`; none means every node of the cluster.
    #[must_use]
    pub fn on(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.nodes = nodes.into_iter().collect();
        self
    }

    /// Its id, unique in the cluster.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Its name, unique in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The nodes that hold a replica, ascending. In a built [`ClusterConfig`] never empty.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }
}

/// Collects a cluster's parts; nothing is checked before `build`.
#[derive(Debug, Clone, Default)]
pub struct ClusterConfigBuilder {
    pub(crate) name: Option<String>,
    pub(crate) nodes: Vec<PeerAddress>,
    pub(crate) profile: Profile,
    pub(crate) timing: Option<TimingConfig>,
    pub(crate) groups: Vec<GroupSpec>,
}

impl ClusterConfigBuilder {
    /// Adds a node that listens at `address`, a `host:port`; the host is resolved on every dial.
    #[must_use]
    pub fn node(mut self, node: NodeId, address: impl Into<String>) -> Self {
        self.nodes.push(PeerAddress { node, address: address.into() });
        self
    }

    /// Picks the profile; the default is `lan`.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Replaces the profile's timing.
    #[must_use]
    pub fn timing(mut self, timing: TimingConfig) -> Self {
        self.timing = Some(timing);
        self
    }

    /// Adds a group.
    #[must_use]
    pub fn group(mut self, group: GroupSpec) -> Self {
        self.groups.push(group);
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub fn build(self) -> Result<ClusterConfig, ConfigErrors> {
        let mut findings = Findings::default();
        self.check(&mut findings);
        match findings.into_errors() {
            Some(errors) => Err(errors),
            None => Ok(self.finish()),
        }
    }

    /// Records every rule that is broken.
    pub(crate) fn check(&self, findings: &mut Findings) {
        match &self.name {
            Some(name) => findings.require(is_name(name), "cluster.name", name, NAME_RULE),
            None => findings.missing("cluster.name"),
        }
        self.check_nodes(findings);
        self.check_groups(findings);
        self.timing.unwrap_or_else(|| self.profile.timing()).check("cluster.timing", findings);
    }

    /// Ids and addresses are usable and used once.
    fn check_nodes(&self, findings: &mut Findings) {
        if self.nodes.is_empty() {
            findings.missing("cluster.nodes");
        }
        let mut by_id = BTreeMap::new();
        let mut by_address = BTreeMap::new();
        for (at, peer) in self.nodes.iter().enumerate() {
            let (id_key, address_key) =
                (format!("cluster.nodes[{at}].id"), format!("cluster.nodes[{at}].address"));
            let (id, address) = (peer.node.get(), peer.address.as_str());
            findings.require(id >= 1, &id_key, id, "must be at least 1");
            findings.require(is_host_and_port(address), &address_key, address, ADDRESS_RULE);
            if let Some(other) = by_id.insert(id, id_key.clone()) {
                findings.relate(false, (&id_key, id), "must differ from", (&other, id));
            }
            if let Some(other) = by_address.insert(address, address_key.clone()) {
                let pair = (&*other, address);
                findings.relate(false, (&address_key, address), "must differ from", pair);
            }
        }
    }

    /// Ids and names are usable and used once; replicas live on known nodes.
    fn check_groups(&self, findings: &mut Findings) {
        let mut by_id = BTreeMap::new();
        let mut by_name = BTreeMap::new();
        for (at, group) in self.groups.iter().enumerate() {
            let (id_key, name_key) =
                (format!("cluster.groups[{at}].id"), format!("cluster.groups[{at}].name"));
            let (id, name) = (group.id.get(), group.name.as_str());
            findings.require(id >= 1, &id_key, id, "must be at least 1");
            findings.require(is_name(name), &name_key, name, NAME_RULE);
            if let Some(other) = by_id.insert(id, id_key.clone()) {
                findings.relate(false, (&id_key, id), "must differ from", (&other, id));
            }
            if let Some(other) = by_name.insert(name, name_key.clone()) {
                findings.relate(false, (&name_key, name), "must differ from", (&other, name));
            }
            self.check_replicas(at, group, findings);
        }
    }

    /// A group's nodes are in the cluster, each once.
    fn check_replicas(&self, at: usize, group: &GroupSpec, findings: &mut Findings) {
        for (position, node) in group.nodes.iter().enumerate() {
            let key = format!("cluster.groups[{at}].nodes[{position}]");
            let known = self.nodes.iter().any(|peer| peer.node == *node);
            findings.require(known, &key, node, "is not in cluster.nodes");
            let first = !group.nodes[..position].contains(node);
            findings.require(first, &key, node, "is named twice");
        }
    }

    /// Builds what was checked.
    pub(crate) fn finish(mut self) -> ClusterConfig {
        self.nodes.sort_by_key(|peer| peer.node);
        self.groups.sort_by_key(|group| group.id);
        for group in &mut self.groups {
            if group.nodes.is_empty() {
                group.nodes = self.nodes.iter().map(|peer| peer.node).collect();
            }
            group.nodes.sort();
        }
        ClusterConfig {
            name: self.name.expect("check() reports a missing name"),
            nodes: self.nodes,
            profile: self.profile,
            timing: self.timing.unwrap_or_else(|| self.profile.timing()),
            groups: self.groups,
        }
    }
}

const NAME_RULE: &str = "must be 1 to 63 of a-z, 0-9 and -";
const ADDRESS_RULE: &str = "must be host:port with a port from 1 to 65535";

/// Whether `name` fits a certificate's URI, a file name and a metric label unescaped.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether `address` can be dialled, without asking a resolver.
fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let host_is_fine = !host.is_empty()
        && (bracketed || !host.contains(':'))
        && !host.contains(|c: char| c.is_whitespace() || c == '/');
    host_is_fine && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> ClusterConfigBuilder {
        ClusterConfig::builder("demo")
            .node(NodeId::new(3), "c.example:7400")
            .node(NodeId::new(1), "10.0.0.1:7400")
            .node(NodeId::new(2), "[::1]:7400")
    }

    #[test]
    fn a_group_without_nodes_is_on_all_of_them() {
        let some = GroupSpec::new(GroupId::new(2), "some").on([NodeId::new(3), NodeId::new(1)]);
        let cluster =
            three().group(some).group(GroupSpec::new(GroupId::new(1), "all")).build().unwrap();
        let nodes = |at: usize| cluster.groups()[at].nodes().iter().map(|n| n.get());
        assert_eq!(nodes(0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(nodes(1).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(cluster.address_of(NodeId::new(2)), Some("[::1]:7400"));
        assert_eq!(cluster.address_of(NodeId::new(4)), None);
        assert_eq!(cluster.effective_timing(), Profile::Lan.timing().effective().unwrap());
    }

    /// Goal: no finding hides another. Method: one of each, and each must be named.
    #[test]
    fn every_error_is_reported_with_its_key() {
        let group = |id| GroupSpec::new(GroupId::new(id), "same");
        let errors = three()
            .node(NodeId::new(1), "10.0.0.1:7400")
            .node(NodeId::new(0), "nowhere")
            .group(group(0))
            .group(group(5).on([NodeId::new(9), NodeId::new(1), NodeId::new(1)]))
            .group(GroupSpec::new(GroupId::new(5), "Upper Case"))
            .timing(TimingConfig { tick: std::time::Duration::ZERO, ..TimingConfig::default() })
            .build()
            .unwrap_err();
        let text = errors.to_string();
        for wanted in [
            "cluster.nodes[3].id = 1: must differ from cluster.nodes[1].id = 1",
            "cluster.nodes[3].address = 10.0.0.1:7400: must differ from cluster.nodes[1].address",
            "cluster.nodes[4].id = 0: must be at least 1",
            "cluster.nodes[4].address = nowhere: must be host:port",
            "cluster.groups[0].id = 0: must be at least 1",
            "cluster.groups[1].name = same: must differ from cluster.groups[0].name",
            "cluster.groups[1].nodes[0] = 9: is not in cluster.nodes",
            "cluster.groups[1].nodes[2] = 1: is named twice",
            "cluster.groups[2].id = 5: must differ from cluster.groups[1].id = 5",
            "cluster.groups[2].name = Upper Case: must be 1 to 63",
            "cluster.timing.tick = 0s: must be at least 1ms",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
        assert_eq!(errors.as_slice().len(), 11, "{text}");
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["a:1", "10.0.0.1:65535", "[::1]:7400", "node-1.svc.cluster.local:7400"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in ["", "a", ":1", "a:0", "a:65536", "::1:7400", "http://a:1", "a b:1", "a:1:2"] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }
}

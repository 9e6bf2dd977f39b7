//! The identity that a certificate carries: `polyraft://<cluster>/node/<id>`.

use std::fmt;
use std::str::FromStr;

use polyraft_core::ids::NodeId;

const SCHEME: &str = "polyraft://";
const CLUSTER_LEN_MAX: usize = 63;

/// A cluster's name: 1 to 63 characters of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`NodeUriError::Cluster`] if it is empty, too long or has another character.
    pub fn new(name: &str) -> Result<Self, NodeUriError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=CLUSTER_LEN_MAX).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(NodeUriError::Cluster)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One node of one cluster, as a certificate's only URI subject alternative name says it.
///
/// There is one spelling of every identity: what parses also formats to the same text.
///
/// ```
/// let uri: polyraft_transport::NodeUri = "polyraft://orders/node/7".parse()?;
/// assert_eq!(uri.node.get(), 7);
/// assert_eq!(uri.to_string(), "polyraft://orders/node/7");
/// # Ok::<(), polyraft_transport::NodeUriError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeUri {
    /// The cluster.
    pub cluster: ClusterName,
    /// The node, never 0.
    pub node: NodeId,
}

impl FromStr for NodeUri {
    type Err = NodeUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix(SCHEME).ok_or(NodeUriError::Scheme)?;
        let (cluster, node) = rest.split_once("/node/").ok_or(NodeUriError::Path)?;
        let cluster = ClusterName::new(cluster)?;
        let canonical = node.bytes().all(|b| b.is_ascii_digit()) && !node.starts_with('0');
        match node.parse() {
            Ok(raw) if canonical => Ok(Self { cluster, node: NodeId::new(raw) }),
            _ => Err(NodeUriError::Node),
        }
    }
}

impl fmt::Display for NodeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/node/{}", self.cluster, self.node)
    }
}

/// Why a text is not a node's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeUriError {
    /// It starts otherwise.
    #[error("a node URI starts with polyraft://")]
    Scheme,
    /// The part after the cluster is something else.
    #[error("a node URI has the form polyraft://<cluster>/node/<id>")]
    Path,
    /// The cluster's name breaks the rule.
    #[error("a cluster name is 1 to 63 characters of a-z, 0-9 and -")]
    Cluster,
    /// The node is not a plain decimal number of 1 to 2^64 - 1.
    #[error("a node id is a decimal number from 1 to 2^64 - 1, without leading zeros")]
    Node,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_what_it_parses() {
        for text in ["polyraft://a/node/1", "polyraft://eu-1/node/18446744073709551615"] {
            assert_eq!(text.parse::<NodeUri>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_every_other_spelling() {
        use NodeUriError::*;
        let long = format!("polyraft://{}/node/1", "a".repeat(64));
        for (text, why) in [
            ("", Scheme),
            ("https://a/node/1", Scheme),
            ("POLYRAFT://a/node/1", Scheme),
            ("polyraft://a", Path),
            ("polyraft://a/nodes/1", Path),
            ("polyraft:///node/1", Cluster),
            ("polyraft://A/node/1", Cluster),
            ("polyraft://a.b/node/1", Cluster),
            (long.as_str(), Cluster),
            ("polyraft://a/node/", Node),
            ("polyraft://a/node/0", Node),
            ("polyraft://a/node/01", Node),
            ("polyraft://a/node/+1", Node),
            ("polyraft://a/node/1/", Node),
            ("polyraft://a/node/1?x", Node),
            ("polyraft://a/node/18446744073709551616", Node),
        ] {
            assert_eq!(text.parse::<NodeUri>(), Err(why), "{text}");
        }
    }
}

//! Compares what a cluster holds with what it acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use etcd_client::{Client, Error, GetOptions};

use crate::endpoints::{Endpoints, connect};
use crate::ledger::{KEY_PREFIX, Puts, value_hash};

/// Keys per page of the range.
const PAGE: i64 = 1_000;
/// How long to wait for an endpoint that is behind or electing.
const PATIENCE: Duration = Duration::from_secs(60);
/// The revision of a keyspace's first put: an empty one is at the revision before.
const FIRST_PUT: i64 = 2;
/// Violations that are printed; the rest is counted.
const PRINTED_MAX: usize = 20;

/// One key as the cluster holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Hash of its value.
    pub value_hash: u64,
    /// The revision that created it.
    pub create_revision: i64,
    /// The revision that last changed it.
    pub mod_revision: i64,
    /// How often it was put.
    pub version: i64,
}

/// What is wrong with one key, or with the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Acknowledged and not there.
    Lost(String),
    /// There more than once.
    Duplicated(String, i64),
    /// There, under another revision than was acknowledged.
    Moved(String, i64, i64),
    /// There, with another value.
    Damaged(String),
    /// There, though no client ever put it.
    Unaccounted(String),
    /// Not one key was put at this revision: the state skipped what the log holds, or the reverse.
    Gap(i64),
    /// Several keys were put at this revision.
    Shared(i64),
    /// Endpoints hash the same revision differently.
    Diverged(Vec<(String, u32)>),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(key) => write!(f, "LOST {key}"),
            Self::Duplicated(key, version) => write!(f, "DUPLICATED {key}: version {version}"),
            Self::Moved(key, acknowledged, found) => {
                write!(f, "MOVED {key}: acknowledged at {acknowledged}, found at {found}")
            }
            Self::Damaged(key) => write!(f, "DAMAGED {key}"),
            Self::Unaccounted(key) => write!(f, "UNACCOUNTED {key}"),
            Self::Gap(revision) => write!(f, "GAP at revision {revision}"),
            Self::Shared(revision) => write!(f, "SHARED revision {revision}"),
            Self::Diverged(hashes) => write!(f, "DIVERGED {hashes:?}"),
        }
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged puts, all of which must be there.
    pub acknowledged: usize,
    /// Puts of unknown outcome that are there.
    pub unknown_present: usize,
    /// Puts of unknown outcome that are not.
    pub unknown_absent: usize,
    /// Endpoints whose hashes were compared.
    pub endpoints: usize,
    /// The revision at which everything was read.
    pub revision: i64,
    /// Everything that is wrong.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in self.violations.iter().take(PRINTED_MAX) {
            writeln!(f, "{violation}")?;
        }
        write!(
            f,
            "ledger: {} acknowledged, {} unknown ({} there, {} not), {} endpoints equal at \
             revision {}, {} violations",
            self.acknowledged,
            self.unknown_present + self.unknown_absent,
            self.unknown_present,
            self.unknown_absent,
            self.endpoints,
            self.revision,
            self.violations.len()
        )
    }
}

/// Compares, without asking anybody.
pub fn judge(puts: &Puts, held: &BTreeMap<String, Held>) -> Verdict {
    let mut verdict = Verdict::default();
    for (key, put) in puts {
        let found = held.get(key);
        match (put.revision, found) {
            (Some(_), _) => verdict.acknowledged += 1,
            (None, Some(_)) => verdict.unknown_present += 1,
            (None, None) => verdict.unknown_absent += 1,
        }
        let Some(found) = found else {
            if put.revision.is_some() {
                verdict.violations.push(Violation::Lost(key.clone()));
            }
            continue;
        };
        if found.version != 1 || found.create_revision != found.mod_revision {
            verdict.violations.push(Violation::Duplicated(key.clone(), found.version));
        }
        if let Some(acknowledged) = put.revision.filter(|r| *r != found.mod_revision) {
            let moved = Violation::Moved(key.clone(), acknowledged, found.mod_revision);
            verdict.violations.push(moved);
        }
        if found.value_hash != put.value_hash {
            verdict.violations.push(Violation::Damaged(key.clone()));
        }
    }
    let unaccounted = held.keys().filter(|key| !puts.contains_key(*key));
    verdict.violations.extend(unaccounted.cloned().map(Violation::Unaccounted));
    verdict
}

/// Whether each revision after the first, up to `revision`, put exactly one key: so it is in a
/// keyspace that nobody but one load writes to, in which each entry was applied once and none was
/// left out (AP-8).
pub fn judge_revisions(held: &BTreeMap<String, Held>, revision: i64) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut revisions: Vec<_> = held.values().map(|held| held.mod_revision).collect();
    revisions.sort_unstable();
    let mut next = FIRST_PUT;
    for found in revisions {
        if found < next {
            violations.push(Violation::Shared(found));
        }
        violations.extend((next..found).map(Violation::Gap));
        next = next.max(found + 1);
    }
    violations.extend((next..=revision).map(Violation::Gap));
    violations
}

/// As [`verify`], and [`judge_revisions`]: for clusters that only this load writes to.
///
/// # Errors
/// As for [`verify`].
pub async fn verify_alone(puts: &Puts, addresses: &[String]) -> Result<Verdict, Error> {
    let (revision, held) = read_all(addresses).await?;
    let mut verdict = compare(puts, &held, revision, addresses).await?;
    verdict.violations.extend(judge_revisions(&held, revision));
    Ok(verdict)
}

/// Reads the cluster and compares it with the ledger. No load may run meanwhile.
///
/// # Errors
/// Nobody answers within a minute.
pub async fn verify(puts: &Puts, addresses: &[String]) -> Result<Verdict, Error> {
    let (revision, held) = read_all(addresses).await?;
    compare(puts, &held, revision, addresses).await
}

async fn compare(
    puts: &Puts,
    held: &BTreeMap<String, Held>,
    revision: i64,
    addresses: &[String],
) -> Result<Verdict, Error> {
    let mut verdict = judge(puts, held);
    verdict.revision = revision;
    let mut hashes = Vec::new();
    for address in addresses {
        hashes.push((address.clone(), hash_at(address, revision).await?));
    }
    verdict.endpoints = hashes.len();
    if hashes.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        verdict.violations.push(Violation::Diverged(hashes));
    }
    Ok(verdict)
}

/// Every key of the ledger at one revision, by linearizable reads from whoever answers.
async fn read_all(addresses: &[String]) -> Result<(i64, BTreeMap<String, Held>), Error> {
    let mut endpoints = Endpoints::new(addresses, 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let read = match endpoints.client().await {
            Ok(client) => read_pages(client).await,
            Err(error) => Err(error),
        };
        match read {
            Err(_) if Instant::now() < deadline => {
                endpoints.fail_over();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            read => return read,
        }
    }
}

/// The pages of one range, all at the revision of the first.
async fn read_pages(client: &mut Client) -> Result<(i64, BTreeMap<String, Held>), Error> {
    let mut held = BTreeMap::new();
    let mut from = KEY_PREFIX.as_bytes().to_vec();
    let end = KEY_PREFIX.replace('/', "0");
    let mut revision = 0;
    loop {
        let options = GetOptions::new().with_range(end.as_str()).with_limit(PAGE);
        let page = client.get(from, Some(options.with_revision(revision))).await?;
        if revision == 0 {
            revision = page.header().map_or(0, |header| header.revision());
        }
        for kv in page.kvs() {
            let found = Held {
                value_hash: value_hash(kv.value()),
                create_revision: kv.create_revision(),
                mod_revision: kv.mod_revision(),
                version: kv.version(),
            };
            held.insert(String::from_utf8_lossy(kv.key()).into_owned(), found);
        }
        match page.kvs().last() {
            Some(last) if page.more() => from = [last.key(), &[0]].concat(),
            _ => return Ok((revision, held)),
        }
    }
}

/// One endpoint's hash of everything up to `revision`, once it has got there.
async fn hash_at(address: &str, revision: i64) -> Result<u32, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let hash = match connect(address).await {
            Ok(mut client) => client.hash_kv(revision).await,
            Err(error) => Err(error),
        };
        match hash {
            Ok(hash) => return Ok(hash.hash()),
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Put;

    fn held(revision: i64, version: i64) -> Held {
        Held { value_hash: 7, create_revision: revision, mod_revision: revision, version }
    }

    fn judge_one(put: Option<Put>, found: Option<Held>) -> Vec<Violation> {
        let key = || "k".to_owned();
        let puts = put.map(|put| (key(), put)).into_iter().collect();
        judge(&puts, &found.map(|found| (key(), found)).into_iter().collect()).violations
    }

    #[test]
    fn what_was_promised_is_no_violation() {
        let acknowledged = Put { value_hash: 7, revision: Some(5) };
        let unknown = Put { value_hash: 7, revision: None };
        assert!(judge_one(Some(acknowledged), Some(held(5, 1))).is_empty());
        assert!(judge_one(Some(unknown), Some(held(9, 1))).is_empty());
        assert!(judge_one(Some(unknown), None).is_empty());
    }

    /// Negative controls: each kind of violation is told.
    #[test]
    fn every_kind_of_violation_is_found() {
        let key = || "k".to_owned();
        let acknowledged = Some(Put { value_hash: 7, revision: Some(5) });
        let unknown = Some(Put { value_hash: 7, revision: None });
        let damaged = Held { value_hash: 8, ..held(5, 1) };
        assert_eq!(judge_one(acknowledged, None), [Violation::Lost(key())]);
        assert_eq!(judge_one(unknown, Some(held(5, 2))), [Violation::Duplicated(key(), 2)]);
        assert_eq!(judge_one(acknowledged, Some(held(6, 1))), [Violation::Moved(key(), 5, 6)]);
        assert_eq!(judge_one(acknowledged, Some(damaged)), [Violation::Damaged(key())]);
        assert_eq!(judge_one(None, Some(held(5, 1))), [Violation::Unaccounted(key())]);
    }

    #[test]
    fn gaps_and_shared_revisions_are_found() {
        let at = |revisions: &[i64]| -> BTreeMap<_, _> {
            let held = revisions.iter().enumerate().map(|(n, r)| (n.to_string(), held(*r, 1)));
            held.collect()
        };
        assert!(judge_revisions(&at(&[3, 2, 4]), 4).is_empty());
        assert!(judge_revisions(&at(&[]), 1).is_empty());
        assert_eq!(judge_revisions(&at(&[2, 4]), 5), [Violation::Gap(3), Violation::Gap(5)]);
        assert_eq!(judge_revisions(&at(&[2, 2, 3]), 3), [Violation::Shared(2)]);
    }
}

//! Group ranking: the groups that matter first, of however many there are.
//!
//! ```text
//! /groups?top=20&by=lag → Ranking ─→ every group's published status, sorted, cut off → JSON
//! ```
//!
//! Promise: at most `top` groups in an answer, which waits for no group (RT-7). What would be a label
//! per group in other systems' metrics is asked for here instead (OB-2).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::report::GroupReport;

/// Groups in an answer, unless it is asked for another number of them.
pub const TOP_DEFAULT: usize = 20;
/// Most groups in an answer.
pub const TOP_MAX: usize = 1000;

/// What comes first; groups that are alike are ascending by id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum RankBy {
    /// What commits most entries per second.
    #[default]
    Hottest,
    /// What has most entries committed and not applied.
    Lag,
    /// What had most elections: the highest term.
    Term,
    /// The first in the alphabet.
    Name,
}

/// Which groups are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranking {
    /// How many, from 1 to [`TOP_MAX`].
    pub top: usize,
    /// In which order.
    pub by: RankBy,
}

/// Why a query is no ranking; the message names the parameter, its value and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankingError {
    /// Not a number, or out of range.
    #[error("top = {value:?}: is not a whole number from 1 to {TOP_MAX}")]
    Top {
        /// The value.
        value: String,
    },
    /// No such order.
    #[error("by = {value:?}: is none of hottest, lag, term and name")]
    By {
        /// The value.
        value: String,
    },
    /// No such parameter.
    #[error("{name} = {value:?}: is no parameter; there are top and by")]
    Unknown {
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
    },
}

/// The answer: the first groups of a ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedGroups {
    /// The node that was asked.
    pub node: u64,
    /// The order.
    pub by: RankBy,
    /// Groups with a replica on the node.
    pub groups_total: usize,
    /// The first of them.
    pub groups: Vec<RankedGroup>,
}

/// One replica of one group, with what it is ranked by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedGroup {
    /// The replica.
    #[serde(flatten)]
    pub group: GroupReport,
    /// Entries that are known to be committed and not applied here.
    pub lag_entries: u64,
    /// Entries committed per second, over the last second. One entry carries a batch of commands.
    pub entries_per_second: f64,
}

impl RankedGroup {
    /// A group that commits so many entries per second.
    pub fn new(group: GroupReport, entries_per_second: f64) -> Self {
        let lag_entries = group.commit.saturating_sub(group.applied);
        Self { group, lag_entries, entries_per_second }
    }
}

impl Ranking {
    /// Reads the parameters of a query; what is absent has its default.
    ///
    /// # Errors
    /// See [`RankingError`].
    pub fn from_query(query: &BTreeMap<String, String>) -> Result<Self, RankingError> {
        let mut ranking = Self { top: TOP_DEFAULT, by: RankBy::default() };
        for (name, value) in query {
            let value = value.clone();
            match name.as_str() {
                "top" => match value.parse() {
                    Ok(top) if (1..=TOP_MAX).contains(&top) => ranking.top = top,
                    _ => return Err(RankingError::Top { value }),
                },
                "by" => {
                    let by = RankBy::from_str(&value, false);
                    ranking.by = by.map_err(|_| RankingError::By { value })?;
                }
                _ => return Err(RankingError::Unknown { name: name.clone(), value }),
            }
        }
        Ok(ranking)
    }

    /// The first groups of `node`'s.
    pub fn pick(&self, node: u64, mut groups: Vec<RankedGroup>) -> RankedGroups {
        let groups_total = groups.len();
        groups.sort_by(|a, b| self.by.order(a, b).then(a.group.group.cmp(&b.group.group)));
        groups.truncate(self.top);
        RankedGroups { node, by: self.by, groups_total, groups }
    }
}

impl RankBy {
    fn order(self, a: &RankedGroup, b: &RankedGroup) -> Ordering {
        match self {
            Self::Hottest => b.entries_per_second.total_cmp(&a.entries_per_second),
            Self::Lag => b.lag_entries.cmp(&a.lag_entries),
            Self::Term => b.group.term.cmp(&a.group.term),
            Self::Name => a.group.name.cmp(&b.group.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(group: u64, name: &str, (term, commit, applied): (u64, u64, u64)) -> GroupReport {
        GroupReport {
            group,
            name: name.into(),
            health: "healthy".into(),
            role: "leader".into(),
            term,
            leader: Some(1),
            commit,
            applied,
            voters: 3,
        }
    }

    fn query(text: &str) -> Result<Ranking, RankingError> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Ranking::from_query(&pairs.map(|(k, v)| (k.into(), v.into())).collect())
    }

    #[test]
    fn each_order_has_its_own_first_group() {
        let groups = || {
            vec![
                RankedGroup::new(group(1, "zebra", (2, 10, 10)), 0.0),
                RankedGroup::new(group(2, "lion", (2, 900, 890)), 1.5),
                RankedGroup::new(group(3, "ape", (7, 10, 10)), 0.0),
                RankedGroup::new(group(4, "bear", (2, 500, 499)), 99.0),
            ]
        };
        for (by, expected) in [
            ("hottest", [4, 2, 1, 3]),
            ("lag", [2, 4, 1, 3]),
            ("term", [3, 1, 2, 4]),
            ("name", [3, 4, 2, 1]),
        ] {
            for top in 1..=5 {
                let ranked = query(&format!("by={by}&top={top}")).unwrap().pick(9, groups());
                let ids: Vec<_> = ranked.groups.iter().map(|ranked| ranked.group.group).collect();
                assert_eq!(ids, expected[..top.min(4)], "{by}");
                assert_eq!((ranked.node, ranked.groups_total), (9, 4));
            }
        }
    }

    #[test]
    fn a_bad_parameter_is_named_with_its_value_and_the_rule() {
        assert_eq!(query(""), Ok(Ranking { top: 20, by: RankBy::Hottest }));
        assert_eq!(query("top=1000&by=lag"), Ok(Ranking { top: 1000, by: RankBy::Lag }));
        for bad in ["0", "1001", "-1", "ten", "", "99999999999999999999"] {
            let error = query(&format!("top={bad}")).unwrap_err().to_string();
            let expected = format!("top = {bad:?}: is not a whole number from 1 to 1000");
            assert_eq!(error, expected);
        }
        let error = query("by=Lag").unwrap_err().to_string();
        assert_eq!(error, r#"by = "Lag": is none of hottest, lag, term and name"#);
        let error = query("limit=3").unwrap_err().to_string();
        assert_eq!(error, r#"limit = "3": is no parameter; there are top and by"#);
        // The message says what there is.
        let names: Vec<_> =
            RankBy::value_variants().iter().filter_map(|by| by.to_possible_value()).collect();
        let names: Vec<_> = names.iter().map(|value| value.get_name()).collect();
        assert_eq!(names, ["hottest", "lag", "term", "name"]);
    }

    #[test]
    fn a_ranked_group_is_a_group_of_the_status_and_more() {
        let ranked = RankedGroup::new(group(1, "a", (2, 10, 7)), 2.5);
        let json = serde_json::to_value(&ranked).unwrap();
        assert_eq!((&json["name"], &json["lag_entries"]), (&"a".into(), &3.into()));
        assert_eq!(json["entries_per_second"], 2.5);
        assert_eq!(serde_json::from_value::<RankedGroup>(json).unwrap(), ranked);
    }
}

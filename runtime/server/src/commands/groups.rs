//! `polyraft groups`: the groups of a node that matter first, as a table or as JSON.

use clap::Args;

use super::CommandError;
use super::admin_args::{AdminArgs, Table};
use crate::group_ranking::{RankBy, RankedGroups, TOP_DEFAULT, TOP_MAX};

/// Arguments of `polyraft groups`.
#[derive(Debug, Args)]
pub struct GroupsArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// How many groups, from 1 to 1000.
    #[arg(long, default_value_t = TOP_DEFAULT as u64, value_parser = clap::value_parser!(u64).range(1..=TOP_MAX as u64))]
    top: u64,
    /// What comes first: most entries per second, most not yet applied, the highest term, or the name.
    #[arg(long, value_enum, default_value_t)]
    by: RankBy,
}

pub(super) async fn run(args: GroupsArgs) -> Result<(), CommandError> {
    let by = serde_json::to_value(args.by).expect("a name is always JSON");
    let path = format!("/groups?top={}&by={}", args.top, by.as_str().unwrap_or_default());
    args.admin.show(&path, table).await
}

fn table(ranked: &RankedGroups) -> String {
    let mut table = Table::new([
        "keyspace",
        "role",
        ">term",
        ">leader",
        ">entries/s",
        ">lag",
        ">commit",
        "health",
    ]);
    for ranked in &ranked.groups {
        let group = &ranked.group;
        table.push([
            group.name.clone(),
            group.role.clone(),
            group.term.to_string(),
            group.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            format!("{:.1}", ranked.entries_per_second),
            ranked.lag_entries.to_string(),
            group.commit.to_string(),
            group.health.clone(),
        ]);
    }
    let (shown, total) = (ranked.groups.len(), ranked.groups_total);
    format!("node {}, {shown} of {total} groups\n\n{}", ranked.node, table.text())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::Cli;
    use crate::group_ranking::RankedGroup;
    use crate::report::GroupReport;

    #[test]
    fn a_table_shows_rates_and_lags() {
        let group = GroupReport {
            group: 7,
            name: "orders".into(),
            health: "healthy".into(),
            role: "leader".into(),
            term: 3,
            leader: Some(1),
            commit: 120,
            applied: 118,
            voters: 3,
        };
        let ranked = RankedGroups {
            node: 1,
            by: RankBy::Hottest,
            groups_total: 1000,
            groups: vec![RankedGroup::new(group, 12.345)],
        };
        let expected = "\
node 1, 1 of 1000 groups

keyspace  role    term  leader  entries/s  lag  commit  health
orders    leader     3       1       12.3    2     120  healthy
";
        assert_eq!(table(&ranked), expected);
    }

    #[test]
    fn what_the_node_would_refuse_is_refused_before_it_is_asked() {
        let parses =
            |args: &[&str]| Cli::try_parse_from([&["polyraft", "groups"], args].concat()).is_ok();
        assert!(parses(&[]) && parses(&["--top", "1000", "--by", "lag"]));
        assert!(!parses(&["--top", "0"]) && !parses(&["--top", "1001"]) && !parses(&["--by", "x"]));
    }
}

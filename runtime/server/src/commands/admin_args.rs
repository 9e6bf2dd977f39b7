//! The arguments of commands that ask a node and show what it says, once or again and again.
//!
//! ```text
//! AdminArgs ─GET→ answer ─→ JSON as it came, or a table      --watch: the same every so often
//! ```
//!
//! On a terminal each picture replaces the one before; elsewhere they follow each other. While it
//! watches, a node that does not answer is no reason to give up.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;

use super::CommandError;
use crate::access_token::AccessToken;
use crate::admin_client;

/// What names the token's file.
const TOKEN_ARGUMENT: &str = "--token-file";
/// Clears a terminal, and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Whom to ask, and how to show the answer.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The node's admin address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2381")]
    admin: String,
    /// The file with a token of the read role, if the node wants to see one.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the node's answer as JSON.
    #[arg(long)]
    json: bool,
    /// Ask again, every 2 s or as often as told, until interrupted.
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = interval
    )]
    watch: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if !interval.is_zero() => Ok(interval),
        Ok(_) => Err("is longer than nothing".to_owned()),
        Err(error) => Err(format!("is a duration such as 500ms or 2s: {error}")),
    }
}

impl AdminArgs {
    /// Asks for `path` and prints the answer, as `table` shows it unless JSON is wanted.
    pub(super) async fn show<T: DeserializeOwned>(
        &self,
        path: &str,
        table: impl Fn(&T) -> String,
    ) -> Result<(), CommandError> {
        let token = self.token_file.as_deref();
        let token = token.map(|file| AccessToken::from_file(TOKEN_ARGUMENT, file)).transpose()?;
        let picture = async || self.picture(path, token.as_ref(), &table).await;
        let Some(interval) = self.watch else { return print(&picture().await?) };
        let clear = if io::stdout().is_terminal() { CLEAR } else { "" };
        loop {
            let shown = match picture().await {
                Ok(shown) => shown,
                Err(error) => format!("{}\n", error.told()),
            };
            print(&format!("{clear}{shown}"))?;
            tokio::time::sleep(interval).await;
        }
    }

    async fn picture<T: DeserializeOwned>(
        &self,
        path: &str,
        token: Option<&AccessToken>,
        table: impl Fn(&T) -> String,
    ) -> Result<String, CommandError> {
        let body = admin_client::get_as(&self.admin, path, token).await?;
        let answer = serde_json::from_slice(&body)
            .map_err(|source| CommandError::Answer { address: self.admin.clone(), source })?;
        if self.json {
            return Ok(format!("{}\n", String::from_utf8_lossy(&body)));
        }
        Ok(table(&answer))
    }
}

/// Prints at once, also to a pipe.
fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CommandError::Output)
}

/// Columns, each as wide as its widest cell; numbers are to the right.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    to_the_right: [bool; N],
}

impl<const N: usize> Table<N> {
    /// A table with a heading; a heading that begins with `>` is that of a column of numbers.
    pub(super) fn new(heading: [&str; N]) -> Self {
        let to_the_right = heading.map(|cell| cell.starts_with('>'));
        let heading = heading.map(|cell| cell.trim_start_matches('>').to_owned());
        Self { rows: vec![heading], to_the_right }
    }

    pub(super) fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    /// Its lines, without a space at their ends.
    pub(super) fn text(&self) -> String {
        let cell_len = |row: &[String; N], at: usize| row[at].chars().count();
        let width: [usize; N] = std::array::from_fn(|at| {
            self.rows.iter().map(|row| cell_len(row, at)).max().unwrap_or_default()
        });
        let line = |row: &[String; N]| {
            let cells: [String; N] = std::array::from_fn(|at| match self.to_the_right[at] {
                true => format!("{:>1$}", row[at], width[at]),
                false => format!("{:<1$}", row[at], width[at]),
            });
            cells.join("  ").trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::Cli;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["name", ">count", "note"]);
        table.push(["größe".into(), "7".into(), String::new()]);
        table.push(["b".into(), "1234567".into(), "last".into()]);
        let expected = "name     count  note\ngröße        7\nb      1234567  last\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn watching_has_an_interval_or_the_default() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["polyraft"], args].concat());
        for command in ["status", "groups"] {
            assert!(parse(&[command, "--watch"]).is_ok());
            assert!(parse(&[command, "--watch=500ms", "--json"]).is_ok());
            let error = parse(&[command, "--watch=0s"]).unwrap_err().to_string();
            assert!(error.contains("longer than nothing"), "{error}");
            let error = parse(&[command, "--watch=soon"]).unwrap_err().to_string();
            assert!(error.contains("500ms or 2s"), "{error}");
        }
    }
}

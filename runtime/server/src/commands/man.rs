//! `polyraft man` and `polyraft completions`: what shells and `man` want to know of the command line,
//! made from its own definition.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CommandError};

const NAME: &str = "polyraft";

/// Arguments of `polyraft completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Whose completions to print.
    shell: Shell,
}

/// Arguments of `polyraft man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for every subcommand too, into this directory, which must exist.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: CompletionsArgs) -> Result<(), CommandError> {
    print(&script(args.shell))
}

pub(super) fn man(args: ManArgs) -> Result<(), CommandError> {
    match args.dir {
        None => print(&page()?),
        Some(dir) => clap_mangen::generate_to(Cli::command(), dir).map_err(CommandError::Output),
    }
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    script
}

fn page() -> Result<Vec<u8>, CommandError> {
    let mut page = Vec::new();
    // As in the pages of a directory, where `help` has none.
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::Man::new(command).render(&mut page).map_err(CommandError::Output)?;
    Ok(page)
}

fn print(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(CommandError::Output)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn subcommands() -> Vec<String> {
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
    }

    #[test]
    fn every_shell_is_told_every_subcommand() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for name in subcommands() {
                assert!(script.contains(&name), "{shell}: {name}");
            }
        }
    }

    #[test]
    fn every_subcommand_has_a_page() {
        let overview = String::from_utf8(page().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        man(ManArgs { dir: Some(dir.path().to_owned()) }).unwrap();
        assert_eq!(std::fs::read(dir.path().join("polyraft.1")).unwrap(), overview.as_bytes());
        for name in subcommands() {
            assert!(overview.contains(&format!("polyraft\\-{name}(1)")), "{name}");
            let page = std::fs::read_to_string(dir.path().join(format!("polyraft-{name}.1")));
            assert!(page.unwrap().contains(".SH SYNOPSIS"), "{name}");
        }
        let absent = man(ManArgs { dir: Some(dir.path().join("absent")) });
        assert!(matches!(absent, Err(CommandError::Output(_))));
    }
}

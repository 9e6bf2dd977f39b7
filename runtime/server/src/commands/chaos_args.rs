//! The arguments that let faults be injected, alike for every command that runs nodes.

use std::path::PathBuf;

use clap::Args;

use crate::access_token::{AccessToken, TokenError};

/// What names the token's file.
const TOKEN_ARGUMENT: &str = "--chaos-token-file";

/// Arguments of fault injection; off by default.
#[derive(Debug, Default, Args)]
pub(super) struct ChaosArgs {
    /// Let whoever has the token inject faults, over the admin interface.
    #[arg(long, requires = "chaos_token_file")]
    chaos: bool,
    /// The file with the token: at least 32 characters, and not accessible to other users.
    #[arg(long, value_name = "FILE", requires = "chaos")]
    chaos_token_file: Option<PathBuf>,
}

impl ChaosArgs {
    /// The token, if faults may be injected; says so loudly.
    pub(super) fn token(&self) -> Result<Option<AccessToken>, TokenError> {
        let Some(path) = self.chaos_token_file.as_deref().filter(|_| self.chaos) else {
            return Ok(None);
        };
        let token = AccessToken::from_file(TOKEN_ARGUMENT, path)?;
        tracing::warn!("chaos is enabled: whoever has the token can break this node on purpose");
        Ok(Some(token))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::commands::Cli;

    #[test]
    fn chaos_needs_its_token_and_the_token_chaos() {
        let parses = |args: &[&str]| {
            let node = [&["polyraft", "node", "--config", "node.toml"], args].concat();
            let dev = [&["polyraft", "dev"], args].concat();
            let parsed = [node, dev].map(|args| Cli::try_parse_from(args).is_ok());
            assert_eq!(parsed[0], parsed[1], "{args:?}");
            parsed[0]
        };
        assert!(parses(&[]) && parses(&["--chaos", "--chaos-token-file", "token"]));
        assert!(!parses(&["--chaos"]) && !parses(&["--chaos-token-file", "token"]));
    }
}

//! What can be wrong with a configuration, and the list of everything that is.
//!
//! ```text
//! file, environment, builder → checks → ConfigErrors: every finding, none hidden by another
//! ```
//!
//! Promise: an operator repairs a configuration in one round, not one error at a time.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong: the key, the value that was given and the rule it breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or an environment variable contradicts its shape.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No such key exists: a misspelling, or a key of another version.
    #[error("{key}: unknown key")]
    UnknownKey {
        /// The key's full path.
        key: String,
    },
    /// A key without a default is absent.
    #[error("{key}: required, but missing")]
    Missing {
        /// The key's full path.
        key: String,
    },
    /// The value has another type, or cannot be parsed as what the key holds.
    #[error("{key} = {value}: expected {expected}")]
    Malformed {
        /// The key's full path.
        key: String,
        /// The value as given.
        value: String,
        /// What the key holds.
        expected: &'static str,
    },
    /// The value alone breaks a rule.
    #[error("{key} = {value}: {rule}")]
    OutOfRange {
        /// The key's full path.
        key: String,
        /// The value as given.
        value: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// Two values are fine each, but not together.
    #[error("{key} = {value}: {rule} {other_key} = {other_value}")]
    Conflict {
        /// The key's full path.
        key: String,
        /// The value as given.
        value: String,
        /// The relation that does not hold.
        rule: &'static str,
        /// The other key.
        other_key: String,
        /// Its value.
        other_value: String,
    },
    /// A section that the runtime hands over does not fit the embedder's type.
    #[error("{section}: {source}")]
    Section {
        /// The section.
        section: &'static str,
        /// Which key and why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The findings, in the order of the checks.
    pub fn as_slice(&self) -> &[ConfigError] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} configuration error(s)", self.0.len())?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// Collects findings, so that no check hides the ones after it.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<ConfigError>);

impl Findings {
    /// Records a finding.
    pub(crate) fn push(&mut self, error: ConfigError) {
        self.0.push(error);
    }

    /// Records that `key` breaks `rule` unless `holds`.
    pub(crate) fn require(
        &mut self,
        holds: bool,
        key: &str,
        value: impl fmt::Display,
        rule: &'static str,
    ) {
        if !holds && !self.is_unreadable(key) {
            self.push(ConfigError::OutOfRange { key: key.into(), value: value.to_string(), rule });
        }
    }

    /// Records that `left` and `right`, each a key and its value, break `rule` unless `holds`.
    pub(crate) fn relate(
        &mut self,
        holds: bool,
        left: (&str, impl fmt::Display),
        rule: &'static str,
        right: (&str, impl fmt::Display),
    ) {
        if !holds && !self.is_unreadable(left.0) && !self.is_unreadable(right.0) {
            self.push(ConfigError::Conflict {
                key: left.0.into(),
                value: left.1.to_string(),
                rule,
                other_key: right.0.into(),
                other_value: right.1.to_string(),
            });
        }
    }

    /// Records that `key` is absent.
    pub(crate) fn missing(&mut self, key: &str) {
        if !self.is_unreadable(key) {
            self.push(ConfigError::Missing { key: key.into() });
        }
    }

    /// Whether `key`, or a table around it, is known to be absent or malformed: what stands in for
    /// its value is not the user's, and breaks no rule of theirs.
    fn is_unreadable(&self, wanted: &str) -> bool {
        self.0.iter().any(|error| match error {
            ConfigError::Missing { key } | ConfigError::Malformed { key, .. } => wanted
                .strip_prefix(key.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])),
            _ => false,
        })
    }

    /// The findings as an error, if there are any.
    pub(crate) fn into_errors(self) -> Option<ConfigErrors> {
        if self.0.is_empty() { None } else { Some(ConfigErrors(self.0)) }
    }
}

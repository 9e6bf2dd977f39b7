//! Command lines of the form `--name value`, without a dependency.

use std::collections::BTreeMap;

/// What was given, by name.
#[derive(Debug)]
pub struct Arguments(BTreeMap<String, String>);

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// Not a `--name` followed by a value.
    #[error("{0}: expected --name value")]
    Shape(String),
    /// An option that the command does not have.
    #[error("--{0}: no such option")]
    Unknown(String),
    /// An option without a default is absent.
    #[error("--{0}: required")]
    Missing(&'static str),
    /// The value is not what the option holds.
    #[error("--{name} {value}: not a valid value")]
    Malformed {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
    },
}

impl Arguments {
    /// Reads pairs, of which every name must be in `known`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(
        arguments: impl IntoIterator<Item = String>,
        known: &[&str],
    ) -> Result<Self, ArgumentError> {
        let mut arguments = arguments.into_iter();
        let mut pairs = BTreeMap::new();
        while let Some(argument) = arguments.next() {
            let name = argument.strip_prefix("--").map(str::to_owned);
            let (Some(name), Some(value)) = (name, arguments.next()) else {
                return Err(ArgumentError::Shape(argument));
            };
            if !known.contains(&name.as_str()) {
                return Err(ArgumentError::Unknown(name));
            }
            pairs.insert(name, value);
        }
        Ok(Self(pairs))
    }

    /// The value of `name`, or `default` if it is absent.
    ///
    /// # Errors
    /// The value is malformed.
    pub fn get_or<T: std::str::FromStr>(
        &self,
        name: &'static str,
        default: T,
    ) -> Result<T, ArgumentError> {
        self.get(name)?.map_or(Ok(default), Ok)
    }

    /// The value of `name`.
    ///
    /// # Errors
    /// It is absent or malformed.
    pub fn require<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, ArgumentError> {
        self.get(name)?.ok_or(ArgumentError::Missing(name))
    }

    /// The comma-separated values of `name`.
    ///
    /// # Errors
    /// It is absent.
    pub fn list(&self, name: &'static str) -> Result<Vec<String>, ArgumentError> {
        let text: String = self.require(name)?;
        Ok(text.split(',').map(|part| part.trim().to_owned()).collect())
    }

    fn get<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, ArgumentError> {
        let parse = |value: &String| {
            value.parse().map_err(|_| ArgumentError::Malformed { name, value: value.clone() })
        };
        self.0.get(name).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(line.split_whitespace().map(str::to_owned), &["n", "list"])
    }

    #[test]
    fn pairs_are_read_and_anything_else_is_refused() {
        let arguments = parse("--n 3 --list a,b").unwrap();
        assert_eq!(arguments.require::<u32>("n"), Ok(3));
        assert_eq!(arguments.list("list").unwrap(), ["a", "b"]);
        assert_eq!(arguments.get_or("absent", 7), Ok(7));
        assert_eq!(arguments.require::<u32>("absent"), Err(ArgumentError::Missing("absent")));
        assert_eq!(parse("n").unwrap_err(), ArgumentError::Shape("n".into()));
        assert_eq!(parse("--m 1").unwrap_err(), ArgumentError::Unknown("m".into()));
        assert!(parse("--n x").unwrap().require::<u32>("n").is_err());
    }
}

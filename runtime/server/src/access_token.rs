//! Access token: the secret that a caller of the admin interface shows.
//!
//! ```text
//! file ─mode, length, characters→ AccessToken ←compare in constant time─ `Authorization: Bearer …`
//! ```
//!
//! Promise: a token is never printed, and never part of a configuration or a command line: those name
//! its file. Not here: what a token allows ([`crate::access`]).

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use subtle::ConstantTimeEq;

/// Fewest characters of a token: 128 bits, if they are random hexadecimal digits.
pub const TOKEN_CHARS_MIN: usize = 32;
/// Longer files hold something else.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;
/// Permissions of everybody who is neither the file's owner nor of its group.
const MODE_OF_OTHERS: u32 = 0o007;

/// One word of at least [`TOKEN_CHARS_MIN`] visible ASCII characters.
#[derive(Clone)]
pub struct AccessToken(Arc<str>);

/// Which rule a token breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRule {
    /// It could be guessed.
    #[error("a token has at least {TOKEN_CHARS_MIN} characters, this one has {chars}")]
    Short {
        /// How many it has.
        chars: usize,
    },
    /// It could not be sent in a header.
    #[error("a token is one word of visible ASCII characters")]
    Malformed,
}

/// Why a token's file cannot be used; `key` is what names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It cannot be read.
    #[error("{key}: {} cannot be read", path.display())]
    File {
        /// The key of the configuration, or the argument.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Everybody on the machine can use it.
    #[error(
        "{key}: {} has mode {mode:03o}, and a secret is for its owner and group alone: chmod 600",
        path.display()
    )]
    Mode {
        /// The key of the configuration, or the argument.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What it holds is no token.
    #[error("{key}: {} holds no token", path.display())]
    Content {
        /// The key of the configuration, or the argument.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The rule.
        #[source]
        source: TokenRule,
    },
}

impl AccessToken {
    /// Takes a token.
    ///
    /// # Errors
    /// See [`TokenRule`].
    pub fn new(token: &str) -> Result<Self, TokenRule> {
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenRule::Malformed);
        }
        if token.len() < TOKEN_CHARS_MIN {
            return Err(TokenRule::Short { chars: token.len() });
        }
        Ok(Self(token.into()))
    }

    /// Reads the token in the file at `path`, which `key` names; white space around it is ignored.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn from_file(key: &'static str, path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::File { key, path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // Of the file that was opened, not of whatever has the name by now.
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & MODE_OF_OTHERS != 0 {
            return Err(TokenError::Mode { key, path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        Self::new(text.trim()).map_err(|source| {
            let path = path.to_owned();
            TokenError::Content { key, path, source }
        })
    }

    /// For the header of a request.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both are the same; takes as long for a wrong one as for the right one of its length.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.is(other.0.as_bytes())
    }

    /// Whether the value of an `Authorization` header shows this token, in a time that tells nothing
    /// but whether the lengths differ.
    pub(crate) fn is_shown_by(&self, authorization: &[u8]) -> bool {
        self.is(authorization.strip_prefix(b"Bearer ").unwrap_or_default())
    }

    fn is(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_token_is_one_visible_word_of_some_length() {
        assert!(AccessToken::new(TOKEN).is_ok());
        assert_eq!(AccessToken::new(&TOKEN[1..]).err(), Some(TokenRule::Short { chars: 31 }));
        assert_eq!(AccessToken::new("").err(), Some(TokenRule::Short { chars: 0 }));
        for malformed in ["two words that are long enough to be one", "schlüssel", "a\nb"] {
            assert_eq!(AccessToken::new(malformed).err(), Some(TokenRule::Malformed));
        }
    }

    #[test]
    fn a_token_is_shown_whole_or_not_at_all() {
        let token = AccessToken::new(TOKEN).unwrap();
        assert!(token.is_shown_by(format!("Bearer {TOKEN}").as_bytes()));
        let (short, long) = (&TOKEN[1..], format!("{TOKEN}0"));
        for wrong in ["", "Bearer", "Bearer ", TOKEN, &format!("Bearer {short}")] {
            assert!(!token.is_shown_by(wrong.as_bytes()), "{wrong:?}");
        }
        for wrong in [format!("Bearer {long}"), format!("bearer {TOKEN}")] {
            assert!(!token.is_shown_by(wrong.as_bytes()), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_the_rule() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("read.token");
        let read = || AccessToken::from_file("server.admin_access.read_token_file", &path);
        assert!(matches!(read().err(), Some(TokenError::File { .. })));

        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        let set_mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode));
        for mode in [0o644, 0o602, 0o601] {
            set_mode(mode).unwrap();
            let error = read().err().unwrap().to_string();
            for part in ["read_token_file", "read.token", &format!("{mode:o}"), "chmod 600"] {
                assert!(error.contains(part), "{error}");
            }
        }
        for mode in [0o600, 0o440] {
            set_mode(mode).unwrap();
            assert!(read().unwrap().equals(&AccessToken::new(TOKEN).unwrap()));
        }
        set_mode(0o600).unwrap();
        std::fs::write(&path, "short").unwrap();
        let error = read().err().unwrap();
        let rule = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(rule, "a token has at least 32 characters, this one has 5");
    }
}

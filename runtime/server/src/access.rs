//! Access to the admin interface: three roles, a token for each, and a line for every attempt.
//!
//! ```text
//! request → audit ─┬→ open routes                        probes
//!                  ├→ guard(Read)    → status, metrics    a token of any role; open without one
//!                  ├→ guard(Operate) → what changes       operate or destroy
//!                  └→ guard(Destroy) → fault injection    destroy
//! ```
//!
//! Promise: without its token nobody gets further than looking, and beyond the loopback interface not
//! even that. Tokens are read at the start and again when the process is told to ([`Access::reload`]): all
//! of them, or none if one cannot be used. Callers without a token that counts are answered 401,
//! those whose token allows too little 403, and both are told which role they need.
//!
//! Not here: tokens themselves ([`crate::access_token`]); what is written down (`audit_log`);
//! transport security: put TLS in front of an interface that leaves the machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::access_token::{AccessToken, TokenError};
use crate::audit_log::{AuditLog, AuditRecord};

/// What a caller may do; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessRole {
    /// Look: states, groups, metrics.
    Read,
    /// Change what takes nothing from anyone.
    Operate,
    /// Break things: inject faults.
    Destroy,
}

impl AccessRole {
    /// From the least to the most.
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Destroy];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Destroy => "destroy",
        }
    }

    /// The key that names the file of its token.
    const fn key(self) -> &'static str {
        match self {
            Self::Read => "server.admin_access.read_token_file",
            Self::Operate => "server.admin_access.operate_token_file",
            Self::Destroy => "server.admin_access.destroy_token_file",
        }
    }
}

/// The `[server.admin_access]` table: who may do what on the admin interface. Empty, whoever reaches it
/// on the loopback interface may look, and nobody may do more.
///
/// A token's file holds one word of at least 32 visible ASCII characters, differs from the other
/// roles', and is not accessible to users other than its owner and group.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct AdminAccessConfig {
    /// The file of the token that lets its bearer look. Required if `server.admin_listen` is not a
    /// loopback address. Default: none, and looking needs no token.
    pub read_token_file: Option<PathBuf>,
    /// The file of the token that also lets its bearer reload certificates. Default: none.
    pub operate_token_file: Option<PathBuf>,
    /// The file of the token that also lets its bearer inject faults, if the node was started with
    /// `--chaos`. Default: none.
    pub destroy_token_file: Option<PathBuf>,
    /// Where every request that may change something, and every refusal, is appended as a line of
    /// JSON. Default: none, and they are only logged, with the target `polyraft::audit`.
    pub audit_file: Option<PathBuf>,
}

/// Why access cannot be had as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Two roles would be one.
    #[error("{} and {} name the same token: each role needs its own", role.key(), other.key())]
    SameToken {
        /// One role.
        role: AccessRole,
        /// The other.
        other: AccessRole,
    },
    /// Everybody in the network could look.
    #[error(
        "server.admin_listen = {listen} is not a loopback address, and nothing says who may look: \
         set server.admin_access.read_token_file, or listen on 127.0.0.1"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// The audit file cannot be opened.
    #[error("server.admin_access.audit_file: {} cannot be appended to", path.display())]
    AuditFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Who may do what. A cheap clone. The default has no tokens: everybody may look, nobody may do more.
#[derive(Clone, Default)]
pub struct Access {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    config: AdminAccessConfig,
    chaos: Option<AccessToken>,
    tokens: RwLock<Tokens>,
    audit: AuditLog,
}

type Tokens = Vec<(AccessRole, AccessToken)>;

/// What is decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Allowed,
    /// No token that counts was shown.
    Unknown,
    /// The token's role is not enough.
    Forbidden(AccessRole),
}

impl Access {
    /// Access as configured, for an interface that listens on `listen`. `chaos` is one more token of
    /// the destroy role: the one of `--chaos-token-file`.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn load(
        config: &AdminAccessConfig,
        listen: SocketAddr,
        chaos: Option<AccessToken>,
    ) -> Result<Self, AccessError> {
        if !listen.ip().is_loopback() && config.read_token_file.is_none() {
            return Err(AccessError::Open { listen });
        }
        let tokens = RwLock::new(read_tokens(config, chaos.as_ref())?);
        let audit = match &config.audit_file {
            None => AuditLog::default(),
            Some(path) => AuditLog::open(path)
                .map_err(|source| AccessError::AuditFile { path: path.clone(), source })?,
        };
        let config = config.clone();
        Ok(Self { inner: Arc::new(Inner { config, chaos, tokens, audit }) })
    }

    /// Reads the configured files again: from now on their tokens count, and no others. The token of
    /// `--chaos-token-file` stays. Blocks for the files.
    ///
    /// # Errors
    /// A token cannot be used, or two are the same: those in force stay, all of them.
    pub fn reload(&self) -> Result<(), AccessError> {
        let tokens = read_tokens(&self.inner.config, self.inner.chaos.as_ref())?;
        *self.inner.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        Ok(())
    }

    fn tokens(&self) -> RwLockReadGuard<'_, Tokens> {
        self.inner.tokens.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets only callers with the role `needs` reach `routes`.
    pub(crate) fn guard<S: Clone + Send + Sync + 'static>(
        &self,
        needs: AccessRole,
        routes: Router<S>,
    ) -> Router<S> {
        let guard = Guard { access: self.clone(), needs };
        routes.route_layer(middleware::from_fn_with_state(guard, authorize))
    }

    /// Writes down what is asked of `routes`, which are all there are.
    pub(crate) fn audited(&self, routes: Router) -> Router {
        routes.layer(middleware::from_fn_with_state(self.clone(), audit))
    }

    /// The most that the shown token allows. Every token is compared, whichever it is.
    fn role_of(&self, headers: &HeaderMap) -> Option<AccessRole> {
        let shown = headers.get(header::AUTHORIZATION)?.as_bytes();
        let tokens = self.tokens();
        let roles = tokens.iter().map(|(role, token)| (role, token.is_shown_by(shown)));
        roles.fold(None, |most, (role, is_shown)| most.max(is_shown.then_some(*role)))
    }

    fn decide(&self, shown: Option<AccessRole>, needs: AccessRole) -> Decision {
        match shown {
            Some(role) if role >= needs => Decision::Allowed,
            _ if needs == AccessRole::Read && !self.has_token(needs) => Decision::Allowed,
            Some(role) => Decision::Forbidden(role),
            None => Decision::Unknown,
        }
    }

    fn has_token(&self, role: AccessRole) -> bool {
        self.tokens().iter().any(|(known, _)| *known == role)
    }

    /// What somebody who may not is told.
    fn advice(&self, needs: AccessRole) -> String {
        if self.tokens().iter().any(|(role, _)| *role >= needs) {
            let role = needs.as_str();
            return format!("this needs the {role} role: send its token as a bearer\n");
        }
        format!(
            "this needs the {} role, and no token for it is configured: set {}\n",
            needs.as_str(),
            needs.key()
        )
    }
}

fn read_tokens(
    config: &AdminAccessConfig,
    chaos: Option<&AccessToken>,
) -> Result<Tokens, AccessError> {
    let files = [&config.read_token_file, &config.operate_token_file, &config.destroy_token_file];
    let mut tokens = Tokens::new();
    for (role, path) in AccessRole::ALL.into_iter().zip(files) {
        let Some(path) = path else { continue };
        let token = AccessToken::from_file(role.key(), path)?;
        if let Some((other, _)) = tokens.iter().find(|(_, known)| known.equals(&token)) {
            return Err(AccessError::SameToken { role: *other, other: role });
        }
        tokens.push((role, token));
    }
    tokens.extend(chaos.map(|token| (AccessRole::Destroy, token.clone())));
    Ok(tokens)
}

#[derive(Clone)]
struct Guard {
    access: Access,
    needs: AccessRole,
}

async fn authorize(
    State(Guard { access, needs }): State<Guard>,
    request: Request,
    next: Next,
) -> Response {
    let shown = access.role_of(request.headers());
    match access.decide(shown, needs) {
        Decision::Allowed => next.run(request).await,
        Decision::Forbidden(role) => {
            let advice = access.advice(needs);
            let why = format!("a token of the {} role is not enough: {advice}", role.as_str());
            (StatusCode::FORBIDDEN, why).into_response()
        }
        Decision::Unknown => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, challenge, access.advice(needs)).into_response()
        }
    }
}

async fn audit(State(access): State<Access>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get().map(|ConnectInfo(peer): &ConnectInfo<_>| *peer);
    let role = access.role_of(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let record = AuditRecord::new(peer, role, (&method, &path), response.status());
    if record.is_due() {
        access.inner.audit.write(record).await;
    }
    response
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use super::*;

    const LOOPBACK: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn text(role: AccessRole) -> String {
        role.as_str().repeat(8)
    }

    fn token(role: AccessRole) -> AccessToken {
        AccessToken::new(&text(role)).unwrap()
    }

    /// Access with a token for each of `roles`.
    fn access(roles: &[AccessRole]) -> Access {
        let tokens = RwLock::new(roles.iter().map(|role| (*role, token(*role))).collect());
        Access { inner: Arc::new(Inner { tokens, ..Inner::default() }) }
    }

    fn shown(token: &str) -> HeaderMap {
        let value = format!("Bearer {token}").parse().unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    fn write(path: &Path, text: &str) {
        let mut options = std::fs::File::options();
        let mut file =
            options.create(true).write(true).truncate(true).mode(0o600).open(path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    #[test]
    fn each_role_includes_those_before_it() {
        let access = access(&AccessRole::ALL);
        for needs in AccessRole::ALL {
            assert_eq!(access.decide(None, needs), Decision::Unknown);
            for role in AccessRole::ALL {
                let known = access.role_of(&shown(&text(role)));
                assert_eq!(known, Some(role));
                let expected =
                    if role >= needs { Decision::Allowed } else { Decision::Forbidden(role) };
                assert_eq!(access.decide(known, needs), expected, "{role:?} for {needs:?}");
            }
        }
        assert_eq!(access.role_of(&shown("nobody's")), None);
        assert_eq!(access.role_of(&HeaderMap::new()), None);
    }

    #[test]
    fn without_a_token_for_it_looking_is_free_and_nothing_else_is() {
        for access in [access(&[]), access(&[AccessRole::Destroy])] {
            assert_eq!(access.decide(None, AccessRole::Read), Decision::Allowed);
            assert_eq!(access.decide(None, AccessRole::Operate), Decision::Unknown);
            assert_eq!(access.decide(None, AccessRole::Destroy), Decision::Unknown);
        }
        let advice = access(&[AccessRole::Read]).advice(AccessRole::Operate);
        assert!(advice.contains("set server.admin_access.operate_token_file"), "{advice}");
        // A token of a higher role will do.
        let advice = access(&[AccessRole::Destroy]).advice(AccessRole::Operate);
        assert!(advice.contains("send its token"), "{advice}");
    }

    #[test]
    fn an_interface_that_leaves_the_machine_needs_a_token_for_looking() {
        let config = AdminAccessConfig::default();
        let load = |address: &str| Access::load(&config, address.parse().unwrap(), None);
        assert!(load("127.0.0.1:2381").is_ok() && load("[::1]:2381").is_ok());
        for address in ["0.0.0.0:2381", "10.0.0.1:2381", "[::]:2381"] {
            let error = load(address).err().unwrap().to_string();
            let parts = ["server.admin_listen", address, "read_token_file", "127.0.0.1"];
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("read");
        write(&file, &text(AccessRole::Read));
        let config = AdminAccessConfig { read_token_file: Some(file), ..config };
        let access = Access::load(&config, "0.0.0.0:2381".parse().unwrap(), None).unwrap();
        assert_eq!(access.decide(None, AccessRole::Read), Decision::Unknown);
    }

    #[test]
    fn the_table_is_read_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = |role: AccessRole| dir.path().join(role.as_str());
        for role in AccessRole::ALL {
            write(&path(role), &text(role));
        }
        let toml = |read: &str, operate: &str| {
            let dir = dir.path().display();
            let text = format!(
                "read_token_file = \"{dir}/{read}\"\noperate_token_file = \"{dir}/{operate}\"\n\
                 audit_file = \"{dir}/audit\""
            );
            toml::from_str::<AdminAccessConfig>(&text).unwrap()
        };
        let access =
            Access::load(&toml("read", "operate"), LOOPBACK, Some(token(AccessRole::Destroy)));
        let access = access.unwrap();
        for role in AccessRole::ALL {
            assert_eq!(access.role_of(&shown(&text(role))), Some(role));
        }
        assert!(dir.path().join("audit").exists());

        write(&path(AccessRole::Read), &text(AccessRole::Operate));
        let error = access.reload().err().unwrap();
        assert!(matches!(error, AccessError::SameToken { .. }), "{error}");
        assert_eq!(access.role_of(&shown(&text(AccessRole::Read))), Some(AccessRole::Read));
        write(&path(AccessRole::Read), "a-token-that-is-new-and-long-enough");
        access.reload().unwrap();
        assert_eq!(access.role_of(&shown(&text(AccessRole::Read))), None, "the old one");
        let new = shown("a-token-that-is-new-and-long-enough");
        assert_eq!(access.role_of(&new), Some(AccessRole::Read));
        for role in [AccessRole::Operate, AccessRole::Destroy] {
            assert_eq!(access.role_of(&shown(&text(role))), Some(role), "as before");
        }

        let error = Access::load(&toml("read", "read"), LOOPBACK, None).err().unwrap().to_string();
        assert!(error.contains("read_token_file and server.admin_access.operate_token_file"));
        let absent = Access::load(&toml("absent", "read"), LOOPBACK, None).err().unwrap();
        assert!(matches!(absent, AccessError::Token(TokenError::File { .. })), "{absent}");
        let config =
            AdminAccessConfig { audit_file: Some(dir.path().into()), ..Default::default() };
        let error = Access::load(&config, LOOPBACK, None).err().unwrap();
        assert!(matches!(error, AccessError::AuditFile { .. }), "{error}");
    }
}

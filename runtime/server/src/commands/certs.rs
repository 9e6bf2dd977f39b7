//! `polyraft certs`: a cluster's authority, a certificate per node, and how both are replaced.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use polyraft::NodeId;
use polyraft::certificates::{AuthorityDir, Validity};

use super::CommandError;

/// Arguments of `polyraft certs`.
#[derive(Debug, Args)]
pub struct CertsArgs {
    #[command(subcommand)]
    action: CertsAction,
}

#[derive(Debug, Subcommand)]
enum CertsAction {
    /// Make the cluster's authority. Keep its key off the nodes.
    Init {
        /// The cluster's name: 1 to 63 of a-z, 0-9 and -.
        #[arg(long)]
        cluster: String,
        /// Where to write it.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Issue a node's certificate, signed by the authority in the directory.
    Issue {
        #[command(flatten)]
        of: NodeOf,
    },
    /// Replace a node's certificate and key by new ones; the old ones are kept in backup/.
    Rotate {
        #[command(flatten)]
        of: NodeOf,
    },
    /// Replace the authority, first step: make its successor, which issues from now on.
    AddAuthority {
        /// The authority's directory.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Replace the authority, last step: trust the successor alone.
    RetireAuthority {
        /// The authority's directory.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Revoke a certificate: no node that has the new list talks to whoever shows it.
    Revoke {
        /// The authority's directory.
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        what: Revoked,
    },
}

/// A node, and where its certificate is.
#[derive(Debug, Args)]
struct NodeOf {
    /// The authority's directory; the certificate is written there too.
    #[arg(long)]
    dir: PathBuf,
    /// The node's id, from 1.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    node: u64,
}

/// Which certificate.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Revoked {
    /// The one that this node has in the directory.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    node: Option<u64>,
    /// The one in this file, for instance an earlier one from backup/.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

pub(super) fn run(args: CertsArgs) -> Result<(), CommandError> {
    match args.action {
        CertsAction::Init { cluster, dir } => {
            AuthorityDir::init(&dir, &cluster, Validity::default())?;
            println!("authority of cluster {cluster:?} written to {}", dir.display());
        }
        CertsAction::Issue { of } => {
            let (certificate, key) = AuthorityDir::new(&of.dir).issue(NodeId::new(of.node))?;
            say_files(&certificate, &key);
        }
        CertsAction::Rotate { of } => {
            let (certificate, key) = AuthorityDir::new(&of.dir).rotate(NodeId::new(of.node))?;
            say_files(&certificate, &key);
            println!("next: bring both to node {}; it takes them up without a restart", of.node);
        }
        CertsAction::AddAuthority { dir } => {
            AuthorityDir::new(&dir).add_authority(Validity::default())?;
            println!(
                "{0} trusts the authority and its successor, which issues from now on\n\
                 next: bring ca.pem and crl.pem to every node; once /status of each shows both\n\
                 authorities, rotate every node's certificate; then retire the old one",
                dir.join("ca.pem").display()
            );
        }
        CertsAction::RetireAuthority { dir } => {
            AuthorityDir::new(&dir).retire_authority()?;
            println!(
                "{} trusts the successor alone\n\
                 next: bring ca.pem and crl.pem to every node whose links all show its certificates",
                dir.join("ca.pem").display()
            );
        }
        CertsAction::Revoke { dir, what } => revoke(&AuthorityDir::new(&dir), &dir, what)?,
    }
    Ok(())
}

fn revoke(authority: &AuthorityDir, dir: &Path, what: Revoked) -> Result<(), CommandError> {
    let is_new = match (what.node, what.certificate) {
        (Some(node), _) => authority.revoke_node(NodeId::new(node))?,
        (None, Some(path)) => authority.revoke(&path)?,
        (None, None) => unreachable!("clap demands one of the two"),
    };
    let list = dir.join("crl.pem");
    if is_new {
        println!("revoked in {}\nnext: bring it to every node", list.display());
    } else {
        println!("{} has it already", list.display());
    }
    Ok(())
}

fn say_files(certificate: &Path, key: &Path) {
    println!("certificate {}\nkey         {}", certificate.display(), key.display());
}

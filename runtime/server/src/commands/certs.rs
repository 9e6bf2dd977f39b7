//! `polyraft certs`: a cluster's authority, and a certificate per node.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use polyraft::NodeId;
use polyraft::certificates::{CertificateAuthority, Validity};

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
        /// The authority's directory; the certificate is written there too.
        #[arg(long)]
        dir: PathBuf,
        /// The node's id, from 1.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        node: u64,
    },
}

pub(super) fn run(args: CertsArgs) -> Result<(), CommandError> {
    match args.action {
        CertsAction::Init { cluster, dir } => {
            CertificateAuthority::create(&cluster, Validity::default())?.save(&dir)?;
            println!("authority of cluster {cluster:?} written to {}", dir.display());
        }
        CertsAction::Issue { dir, node } => {
            let authority = CertificateAuthority::load(&dir)?;
            let (certificate, key) = authority.issue(NodeId::new(node))?.save(&dir)?;
            println!("certificate {}\nkey         {}", certificate.display(), key.display());
        }
    }
    Ok(())
}

//! The configurations in `deploy/` are what this binary reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use polyraft::{NodeConfig, Profile};
use polyraft_server::instance::ServerConfig;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// Loads a file as `polyraft node` does.
fn load(path: &Path) -> (NodeConfig, ServerConfig) {
    let config = NodeConfig::from_toml_file(path);
    let config = config.unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
    let server = config.server_section();
    let server = server.unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
    (config, server)
}

/// Goal: there is an example for each profile, and one for the README's quick start, each of the profile
/// that it says. Method: every file there is.
#[test]
fn every_profile_has_an_example_that_loads() {
    let files = std::fs::read_dir(deploy().join("examples")).unwrap();
    let files: BTreeMap<String, PathBuf> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    let profiles = BTreeMap::from([
        ("dev", Profile::Dev),
        ("lan", Profile::Lan),
        ("low-latency", Profile::LowLatency),
        ("one-machine", Profile::Dev),
        ("wan", Profile::Wan),
    ]);
    assert_eq!(Vec::from_iter(files.keys()), Vec::from_iter(profiles.keys()));
    for (name, profile) in profiles {
        let (config, server) = load(&files[name]);
        assert_eq!(config.cluster().profile(), profile, "{name}");
        assert!(server.admin_listen.ip().is_loopback(), "{name}: unauthenticated beyond this host");
    }
}

#[test]
fn the_configurations_of_the_example_and_of_compose_load() {
    load(&deploy().join("node.example.toml"));
    let (config, server) = load(&deploy().join("compose/node.toml"));
    assert_eq!(config.cluster().nodes().len(), 3);
    assert!(!server.client_listen.ip().is_loopback(), "other containers are clients");
}

//! The files of a data directory that are not tables: its identity, and the peers' data.
//!
//! Properties: what was decoded comes back the same once it is written again.

use polyraft_storage::fuzzing;

const SUM: &str = "crc32c ";

pub fn run(data: &[u8]) {
    check(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let body = text.rsplit_once(SUM).map_or(text, |(body, _)| body);
    check(format!("{body}{SUM}{:08x}\n", crc32c::crc32c(body.as_bytes())).as_bytes());
}

fn check(data: &[u8]) {
    // Of an early format without a data mark, each decoding draws another one.
    if let Some(again) = fuzzing::identity(data) {
        assert_eq!(fuzzing::identity(&again).as_ref(), Some(&again));
    }
    if let Some(again) = std::str::from_utf8(data).ok().and_then(fuzzing::peer) {
        assert_eq!(fuzzing::peer(&again).as_ref(), Some(&again));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let identity = "polyraft data directory\nformat 1\ncluster blue\nnode 7\nincarnation 12\n";
    vec![
        format!("{identity}data 00000000000000ff\n").into_bytes(),
        identity.as_bytes().to_vec(),
        b"polyraft data directory\nformat 9\n".to_vec(),
        b"data 00000000000000ff\nincarnation 12\nboot 0000000000000007\n".to_vec(),
    ]
}

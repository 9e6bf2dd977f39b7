//! `HashKV`: a checksum of the history that clients can still read.
//!
//! Equal on all replicas at one revision and one compacted revision, however far each has freed the
//! compacted rows. Not etcd's number: rows are ours.

use std::ops::Bound;

use polyraft::ApplyError;

use super::reader::Reader;
use super::refused::Refused;
use super::rows::{self, KeyRange};
use crate::proto::etcdserverpb::HashKvResponse;
use crate::proto::keyspace::Refusal;

/// Hashes every readable version up to `revision`; 0 or less: the newest.
pub(super) fn hash(reader: &Reader<'_>, revision: i64) -> Result<HashKvResponse, Refused> {
    if revision > reader.revision {
        return Err(Refusal::FutureRevision.into());
    }
    if revision > 0 && revision < reader.compacted {
        return Err(Refusal::Compacted.into());
    }
    let upto = if revision > 0 { revision } else { reader.revision };
    Ok(HashKvResponse {
        header: super::writer::header(reader.revision),
        hash: checksum(reader, upto)?,
        compact_revision: reader.compacted,
        hash_revision: upto,
    })
}

fn checksum(reader: &Reader<'_>, upto: i64) -> Result<u32, ApplyError> {
    let (from, to) = KeyRange::all().rows().expect("all keys are a range");
    let mut base_of: Vec<u8> = Vec::new();
    let mut sum = 0;
    reader.state.scan(Bound::Included(&from), Bound::Excluded(&to), false, &mut |row, value| {
        let (prefix, revision) = rows::split_version_row(row);
        if revision.main > upto {
            return true;
        }
        if revision.main <= reader.compacted {
            // Of the compacted versions only the newest is readable, and only if it is no deletion.
            let superseded = base_of == prefix;
            base_of.clear();
            base_of.extend_from_slice(prefix);
            if superseded || value.is_empty() {
                return true;
            }
        }
        sum = crc32c::crc32c_append(sum, &(row.len() as u32).to_be_bytes());
        sum = crc32c::crc32c_append(sum, row);
        sum = crc32c::crc32c_append(sum, &(value.len() as u32).to_be_bytes());
        sum = crc32c::crc32c_append(sum, value);
        true
    })?;
    Ok(sum)
}

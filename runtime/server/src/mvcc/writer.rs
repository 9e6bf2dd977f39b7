//! The writes of one transaction: one main revision, counted sub revisions.

use bytes::Bytes;
use polyraft::State;
use prost::Message;

use super::reader::Reader;
use super::refused::Refused;
use super::rows::{self, KeyRange, Revision};
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, ResponseHeader,
};
use crate::proto::keyspace::{Refusal, StoredVersion};

/// A transaction in progress. Every check comes before the first write.
pub(super) struct Writer<'a> {
    pub state: &'a mut dyn State,
    /// The revision before the transaction.
    base: i64,
    compacted: i64,
    writes: u32,
}

impl<'a> Writer<'a> {
    /// Starts after revision `base`.
    pub fn new(state: &'a mut dyn State, base: i64, compacted: i64) -> Self {
        Self { state, base, compacted, writes: 0 }
    }

    /// The newest revision that the transaction itself sees: its own, once it has written.
    pub fn revision(&self) -> i64 {
        if self.writes > 0 { self.base + 1 } else { self.base }
    }

    /// The keyspace as the transaction sees it.
    pub fn reader(&self) -> Reader<'_> {
        Reader { state: self.state, revision: self.revision(), compacted: self.compacted }
    }

    /// Whether `request` may be carried out.
    pub fn check_put(&self, request: &PutRequest) -> Result<(), Refused> {
        if rows::encoded_key_len(&request.key) > rows::KEY_ENCODED_BYTES_MAX {
            return Err(Refusal::KeyTooLong.into());
        }
        if request.lease != 0 {
            return Err(Refusal::LeaseNotFound.into());
        }
        let needs_previous = request.ignore_value || request.ignore_lease;
        if needs_previous && self.reader().get(&request.key)?.is_none() {
            return Err(Refusal::KeyNotFound.into());
        }
        Ok(())
    }

    /// Writes a key that [`Self::check_put`] has passed.
    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Refused> {
        let previous = self.reader().get(&request.key)?;
        let main = self.base + 1;
        let (created, version) =
            previous.as_ref().map_or((main, 1), |kv| (kv.create_revision, kv.version + 1));
        let value = match &previous {
            Some(kv) if request.ignore_value => kv.value.clone(),
            _ => request.value.clone(),
        };
        let stored = StoredVersion { create_revision: created, version, value };
        self.write(&request.key, stored.encode_to_vec().into())?;
        Ok(PutResponse {
            header: header(main),
            prev_kv: if request.prev_kv { previous } else { None },
        })
    }

    /// Deletes the range's keys; none is fine.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Refused> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut keys = Vec::new();
        let mut prev_kvs = Vec::new();
        let mut failed = None;
        let reader = self.reader();
        reader.visit(range, reader.revision, &mut |live| {
            keys.push(rows::key_of(live.prefix));
            if request.prev_kv {
                match live.decode() {
                    Ok(kv) => prev_kvs.push(kv),
                    Err(error) => failed = Some(error),
                }
            }
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        for key in &keys {
            self.write(key, Bytes::new())?;
        }
        let deleted = keys.len() as i64;
        Ok(DeleteRangeResponse { header: header(self.revision()), deleted, prev_kvs })
    }

    fn write(&mut self, key: &[u8], row: Bytes) -> Result<(), Refused> {
        let revision = Revision { main: self.base + 1, sub: self.writes };
        self.state.put(&rows::version_row(key, revision), row)?;
        self.state.put(&rows::event_row(revision), Bytes::copy_from_slice(key))?;
        self.writes += 1;
        Ok(())
    }
}

/// A header that says the revision alone; the service adds who answers.
pub(super) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

//! Compaction: the revision moves at once, rows are freed a few per command.
//!
//! ```text
//! Compact(r): 'm' = r          later commands: events ≤ r, oldest first, each
//!                              ─ frees the version it superseded
//!                              ─ frees itself, if it is a deletion
//! ```
//!
//! Only what was written since the last compaction is walked: a version that outlives one has lost
//! its event, and is found again as the version superseded by a later event.

use std::ops::Bound;

use bytes::Bytes;
use polyraft::{ApplyError, State};

use super::refused::Refused;
use super::rows::{self, Revision};
use crate::proto::keyspace::Refusal;

/// Events walked by an ordinary command while compacted rows are left.
pub(super) const SWEEP_EVENTS_PER_COMMAND: usize = 64;
/// Events walked by a command that came to compact.
pub(super) const SWEEP_EVENTS_PER_SWEEP: usize = 1024;

/// No compaction yet; reads at any revision from 0 on are allowed.
pub(super) const NEVER_COMPACTED: i64 = -1;

/// Reads the compacted revision.
pub(super) fn load(state: &dyn State) -> Result<i64, ApplyError> {
    let Some(row) = state.get(rows::META_ROW)? else { return Ok(NEVER_COMPACTED) };
    let raw = row.as_ref().try_into().map_err(|_| ApplyError::Decode {
        what: format!("a metadata row of {} bytes", row.len()),
    })?;
    Ok(i64::from_be_bytes(raw))
}

/// Moves the compacted revision to `revision`, which must be newer than `compacted`.
pub(super) fn compact(
    state: &mut dyn State,
    revision: i64,
    current: i64,
    compacted: i64,
) -> Result<(), Refused> {
    if revision <= compacted {
        return Err(Refusal::Compacted.into());
    }
    if revision > current {
        return Err(Refusal::FutureRevision.into());
    }
    state.put(rows::META_ROW, Bytes::copy_from_slice(&revision.to_be_bytes()))?;
    Ok(())
}

/// Frees what at most `events_max` compacted events left behind; returns whether more are left.
pub(super) fn sweep(
    state: &mut dyn State,
    compacted: i64,
    events_max: usize,
) -> Result<bool, ApplyError> {
    let (events, more) = compacted_events(state, compacted, events_max)?;
    for (event, key) in events {
        for row in freed_rows(state, &key, rows::event_revision(&event))? {
            state.delete(&row)?;
        }
        state.delete(&event)?;
    }
    Ok(more)
}

type Events = Vec<(Vec<u8>, Bytes)>;

/// The oldest compacted events, and whether there are more of them.
fn compacted_events(
    state: &dyn State,
    compacted: i64,
    events_max: usize,
) -> Result<(Events, bool), ApplyError> {
    let mut events = Vec::new();
    let mut more = false;
    let (from, to) = rows::event_bounds();
    state.scan(from, to, false, &mut |row, key| {
        let due = rows::event_revision(row).main <= compacted;
        more = due && events.len() == events_max;
        if due && !more {
            events.push((row.to_vec(), key.clone()));
        }
        due && !more
    })?;
    Ok((events, more))
}

/// The version that the one at `revision` superseded, and that one itself if it is a deletion.
fn freed_rows(
    state: &dyn State,
    key: &[u8],
    revision: Revision,
) -> Result<Vec<Vec<u8>>, ApplyError> {
    let own = rows::version_row(key, revision);
    let end = rows::after_key(&rows::key_prefix(key));
    let mut freed = Vec::new();
    state.scan(Bound::Included(&own), Bound::Excluded(&end), false, &mut |row, value| {
        let is_own = row == own;
        if !is_own || value.is_empty() {
            freed.push(row.to_vec());
        }
        is_own
    })?;
    Ok(freed)
}

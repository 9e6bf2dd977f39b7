//! `Range`: select, filter, sort, cut, in etcd's order.

use std::cmp::Ordering;

use super::reader::Reader;
use super::refused::Refused;
use super::rows::KeyRange;
use super::writer::header;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse};
use crate::proto::mvccpb::KeyValue;

/// Answers `request` from what `reader` sees.
pub(super) fn range(reader: &Reader<'_>, request: &RangeRequest) -> Result<RangeResponse, Refused> {
    let at = reader.resolve(request.revision)?;
    let (mut kvs, count) = select(reader, request, at)?;
    kvs.retain(|kv| is_wanted(request, kv));
    sort(request, &mut kvs);
    let limit = request.limit.max(0) as usize;
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    Ok(RangeResponse { header: header(reader.revision), kvs, more, count })
}

/// The range's pairs, as many as can matter, and the count of all of them.
fn select(
    reader: &Reader<'_>,
    request: &RangeRequest,
    at: i64,
) -> Result<(Vec<KeyValue>, i64), Refused> {
    let keep = pairs_needed(request);
    let mut kvs = Vec::new();
    let mut count = 0;
    let mut failed = None;
    let range = KeyRange::new(&request.key, &request.range_end);
    reader.visit(range, at, &mut |live| {
        count += 1;
        if kvs.len() < keep {
            match live.decode() {
                Ok(kv) => kvs.push(kv),
                Err(error) => failed = Some(error),
            }
        }
        failed.is_none()
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok((kvs, count)),
    }
}

/// One more than the limit tells whether there is more; sorting and filters need them all.
fn pairs_needed(request: &RangeRequest) -> usize {
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if request.count_only {
        0
    } else if request.limit <= 0 || filtered || request.sort_order() != SortOrder::None {
        usize::MAX
    } else {
        (request.limit as usize).saturating_add(1)
    }
}

fn is_wanted(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within =
        |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Pairs come in key order; a target other than the key means ascending unless said otherwise. Ties
/// stay in key order, whichever the direction.
fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let target = request.sort_target();
    let by_target = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match request.sort_order() {
        SortOrder::None if target == SortTarget::Key => {}
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(by_target),
        SortOrder::Descend => kvs.sort_by(|a, b| -> Ordering { by_target(b, a) }),
    }
}

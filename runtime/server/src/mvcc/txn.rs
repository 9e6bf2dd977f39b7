//! `Txn`: every comparison first, nested ones included, then every check, then the writes.
//!
//! That order is etcd's: no comparison sees the transaction's own writes, and a transaction that is
//! refused has written nothing.

use std::cmp::Ordering;

use super::range::range;
use super::reader::Reader;
use super::refused::Refused;
use super::rows::KeyRange;
use super::writer::{Writer, header};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    Compare, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::proto::keyspace::Refusal;
use crate::proto::mvccpb::KeyValue;

/// A transaction whose comparisons are decided: the branch taken, and the same of every nested one.
pub(super) struct Decided<'t> {
    succeeded: bool,
    steps: Vec<Step<'t>>,
}

enum Step<'t> {
    Op(&'t Request),
    Nested(Decided<'t>),
}

impl<'t> Decided<'t> {
    /// Evaluates the comparisons of `txn` against what `reader` sees.
    pub fn new(reader: &Reader<'_>, txn: &'t TxnRequest) -> Result<Self, Refused> {
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded = succeeded && holds(reader, compare)?;
        }
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let steps = ops
            .iter()
            .filter_map(|RequestOp { request }| request.as_ref())
            .map(|request| match request {
                Request::RequestTxn(nested) => Self::new(reader, nested).map(Step::Nested),
                op => Ok(Step::Op(op)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { succeeded, steps })
    }

    /// Refuses the whole transaction if one of its operations must be: puts first, then ranges.
    pub fn check(&self, writer: &Writer<'_>) -> Result<(), Refused> {
        self.for_each(&mut |request| match request {
            Request::RequestPut(put) => writer.check_put(put),
            _ => Ok(()),
        })?;
        self.check_ranges(&writer.reader())
    }

    /// The part of [`Self::check`] that a transaction without writes needs.
    pub fn check_ranges(&self, reader: &Reader<'_>) -> Result<(), Refused> {
        self.for_each(&mut |request| match request {
            Request::RequestRange(range) => check_range(reader, range),
            _ => Ok(()),
        })
    }

    /// Carries out a checked transaction.
    pub fn execute(&self, writer: &mut Writer<'_>) -> Result<TxnResponse, Refused> {
        let mut responses = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            responses.push(match step {
                Step::Nested(nested) => Response::ResponseTxn(nested.execute(writer)?),
                Step::Op(Request::RequestRange(request)) => {
                    Response::ResponseRange(range(&writer.reader(), request)?)
                }
                Step::Op(Request::RequestPut(put)) => Response::ResponsePut(writer.put(put)?),
                Step::Op(Request::RequestDeleteRange(delete)) => {
                    Response::ResponseDeleteRange(writer.delete_range(delete)?)
                }
                Step::Op(Request::RequestTxn(_)) => unreachable!("decided as nested"),
            });
        }
        Ok(self.respond(responses))
    }

    /// Carries out a checked transaction that only reads.
    pub fn read(&self, reader: &Reader<'_>) -> Result<TxnResponse, Refused> {
        let mut responses = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            match step {
                Step::Nested(nested) => {
                    responses.push(Response::ResponseTxn(nested.read(reader)?));
                }
                Step::Op(Request::RequestRange(request)) => {
                    responses.push(Response::ResponseRange(range(reader, request)?));
                }
                Step::Op(_) => debug_assert!(false, "a write in a read-only transaction"),
            }
        }
        Ok(self.respond(responses))
    }

    /// The outermost header is filled in by the caller; etcd leaves those of nested ones empty.
    fn respond(&self, responses: Vec<Response>) -> TxnResponse {
        TxnResponse {
            header: Some(ResponseHeader::default()),
            succeeded: self.succeeded,
            responses: responses
                .into_iter()
                .map(|response| ResponseOp { response: Some(response) })
                .collect(),
        }
    }

    fn for_each(
        &self,
        visit: &mut dyn FnMut(&Request) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        self.steps.iter().try_for_each(|step| match step {
            Step::Op(request) => visit(request),
            Step::Nested(nested) => nested.for_each(visit),
        })
    }
}

/// Gives a whole transaction's response its revision.
pub(super) fn with_revision(mut response: TxnResponse, revision: i64) -> TxnResponse {
    response.header = header(revision);
    response
}

/// In a transaction any revision but 0 is taken at its word, negative ones too.
fn check_range(reader: &Reader<'_>, request: &RangeRequest) -> Result<(), Refused> {
    match request.revision {
        0 => Ok(()),
        asked if asked > reader.revision => Err(Refusal::FutureRevision.into()),
        asked if asked < reader.compacted => Err(Refusal::Compacted.into()),
        _ => Ok(()),
    }
}

/// Whether a comparison holds for every key it names. A key that does not exist compares as zeros,
/// except that its value equals nothing and differs from nothing.
fn holds(reader: &Reader<'_>, compare: &Compare) -> Result<bool, Refused> {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    let mut all = true;
    let mut found = false;
    let mut failed = None;
    reader.visit(range, reader.revision, &mut |live| {
        found = true;
        match live.decode() {
            Ok(kv) => all = holds_for(compare, &kv),
            Err(error) => failed = Some(error),
        }
        all && failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if !found {
        let on_value = compare.target() == CompareTarget::Value;
        return Ok(!on_value && holds_for(compare, &KeyValue::default()));
    }
    Ok(all)
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match compare.target() {
        CompareTarget::Value => match &compare.target_union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.as_ref().cmp(&[]),
        },
        target => numbers(target, compare.target_union.as_ref(), kv),
    };
    match compare.result() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}

/// Compares the number that `target` names with the operand; an operand of another kind counts as 0.
fn numbers(target: CompareTarget, operand: Option<&TargetUnion>, kv: &KeyValue) -> Ordering {
    let (own, operand) = match (target, operand) {
        (CompareTarget::Version, Some(TargetUnion::Version(n))) => (kv.version, *n),
        (CompareTarget::Version, _) => (kv.version, 0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => (kv.create_revision, *n),
        (CompareTarget::Create, _) => (kv.create_revision, 0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => (kv.mod_revision, *n),
        (CompareTarget::Mod, _) => (kv.mod_revision, 0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => (kv.lease, *n),
        (CompareTarget::Lease, _) => (kv.lease, 0),
        (CompareTarget::Value, _) => unreachable!("values are compared as bytes"),
    };
    own.cmp(&operand)
}

//! The journal's tables as a damaged disk may give them back: records, meta rows, cold rows.
//!
//! ```text
//! rows of the input ─→ MemoryTable ─open→ Journal: restore, read, append, collect garbage, open again
//! ```
//!
//! Properties: nothing panics; a group that is not quarantined has the entries that it says it has, and
//! takes more; what it has survives garbage collection and a restart.

use bytes::Bytes;
use polyraft_core::entry::{
    CompactionPoint, Configuration, EntryKind, HardState, LogEntry, Member,
};
use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use polyraft_core::ports::{GroupAppend, GroupIdentity, LogStore, RestoredLog};
use polyraft_storage::journal::{COLD, JOURNAL, Journal, JournalOptions, LOG_TABLES, META};
use polyraft_storage::memory::MemoryTable;
use polyraft_storage::table::{TableId, TableRead, TableStore, WriteSize};

use crate::script::{Script, chunk, set_u32, u32_at};

const HEADER_BYTES: usize = 24;
const FRAME_BYTES: usize = 20;
const FOOTER_BYTES: usize = 8;
/// A step whose first byte has this bit has its checksums mended.
const MENDS: u8 = 0x80;
const TABLES: [TableId; 3] = [JOURNAL, META, COLD];
/// Most that is read of one group: damage may claim any length.
const ENTRIES_MAX: u64 = 1_000;

pub fn run(data: &[u8]) {
    let disk = MemoryTable::new(LOG_TABLES.len());
    let mut script = Script(data);
    while put_row(&disk, &mut script).is_some() {}
    let Ok(mut journal) = Journal::open(disk.clone(), JournalOptions::tiny()) else { return };
    let before = logs(&journal);
    for (group, log) in &before {
        append(&mut journal, *group, log);
    }
    while matches!(journal.collect_garbage(), Ok(true)) {}
    let after = logs(&journal);
    let again = Journal::open(disk, JournalOptions::tiny()).expect("it was opened before");
    assert_eq!(logs(&again), after);
}

/// One row of the input: table, key, value.
fn put_row(disk: &MemoryTable, script: &mut Script<'_>) -> Option<()> {
    let step = script.byte()?;
    let (group, at) = (u64::from(script.byte()?), u64::from(script.byte()?));
    let at = if at == 0xFF { script.number()? } else { at };
    let mut value = script.chunk()?.to_vec();
    let which = usize::from(step & 3) % TABLES.len();
    let key = match which {
        0 => at.to_be_bytes().to_vec(),
        1 => group.to_be_bytes().to_vec(),
        _ => [group.to_be_bytes(), at.to_be_bytes()].concat(),
    };
    if step & MENDS != 0 {
        match which {
            0 => drop(mend_record(&mut value, at)),
            1 => mend_meta(&mut value, group),
            _ => mend_cold(&mut value, group, at),
        }
    }
    let mut size = WriteSize::default();
    size.add(&key, &value);
    disk.write(size, &mut |write| write.put(TABLES[which], &key, &value)).ok()
}

/// Sequence, lengths and checksums of a record's first header, and of the blocks that it names.
fn mend_record(record: &mut [u8], sequence: u64) -> Option<()> {
    let count = u32_at(record, 16)? as usize;
    let header_bytes = HEADER_BYTES + count.checked_mul(FRAME_BYTES)?;
    let body = record.len().checked_sub(2 * header_bytes + FOOTER_BYTES)?;
    for table in (HEADER_BYTES..header_bytes).step_by(FRAME_BYTES) {
        let (offset, len) = (u32_at(record, table + 8)? as usize, u32_at(record, table + 12)?);
        let crc = record.get(offset..offset + len as usize).map(crc32c::crc32c);
        set_u32(record, table + 16, crc.unwrap_or_default());
    }
    record[..4].copy_from_slice(&[1, 0, 0, 0]);
    record[8..16].copy_from_slice(&sequence.to_le_bytes());
    set_u32(record, 20, body as u32);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[8..header_bytes]);
    set_u32(record, 4, crc);
    Some(())
}

fn mend_meta(row: &mut [u8], group: u64) {
    if row.len() > 5 {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&group.to_le_bytes()), &row[..1]);
        set_u32(row, 1, crc32c::crc32c_append(crc, &row[5..]));
    }
}

fn mend_cold(row: &mut [u8], group: u64, index: u64) {
    if row.len() >= 18 {
        set_u32(row, 5, (row.len() - 18) as u32);
        let place = [group.to_le_bytes(), index.to_le_bytes()].concat();
        set_u32(row, 1, crc32c::crc32c_append(crc32c::crc32c(&place), &row[5..]));
    }
}

/// The log of every group that can be restored.
fn logs(journal: &Journal<MemoryTable>) -> Vec<(GroupId, RestoredLog)> {
    let groups = journal.groups().into_iter();
    groups.filter_map(|(group, _)| Some((group, log(journal, group)?))).collect()
}

fn log(journal: &Journal<MemoryTable>, group: GroupId) -> Option<RestoredLog> {
    let applied = LogIndex::new(u64::MAX);
    let log = journal.restore(group, applied).ok()?;
    let first = log.compacted.index.next();
    let len = log.last.next().distance_from(first);
    if len > ENTRIES_MAX {
        return Some(log);
    }
    let log = journal.restore(group, LogIndex::ZERO).ok()?;
    assert_eq!(log.entries.len() as u64, len, "{group}");
    let indexes = log.entries.iter().map(|entry| entry.index.get());
    assert!(indexes.eq(first.get()..first.get() + len), "{group}: {:?}", log.entries);
    let some = journal.reader().entries(group, first..log.last.next(), 64);
    assert!(log.entries.starts_with(&some.expect("it was just read")));
    Some(log)
}

/// Commits an entry behind a group's log.
fn append(journal: &mut Journal<MemoryTable>, group: GroupId, log: &RestoredLog) {
    let mut append = GroupAppend::empty(group);
    append.entries = vec![entry(log.last.next().get(), 9)];
    let _ = journal.commit(&[append]);
}

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry {
        index: LogIndex::new(index),
        term: Term::new(term),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![index as u8; 12]),
    }
}

/// What a journal that was in use has in its tables, as steps.
fn rows(commits: usize, gc: bool) -> Vec<u8> {
    let disk = MemoryTable::new(LOG_TABLES.len());
    let mut journal = Journal::open(disk.clone(), JournalOptions::tiny()).expect("an empty disk");
    let replica = |group: u64| ReplicaId::new(100 + group);
    let creates: Vec<_> = (1..=2)
        .map(|group| {
            let member = Member { replica: replica(group), node: NodeId::new(1) };
            let mut create = GroupAppend::empty(GroupId::new(group));
            create.create = Some(GroupIdentity { name: "g".into(), replica: replica(group) });
            create.configuration = Some(Configuration::initial(vec![member]));
            create
        })
        .collect();
    journal.commit(&creates).expect("a healthy disk");
    for at in 1..=commits as u64 {
        let mut first = GroupAppend::empty(GroupId::new(1));
        first.entries = vec![entry(at, 1 + at / 3)];
        let (term, commit) = (Term::new(1 + at / 3), LogIndex::new(at.saturating_sub(1)));
        first.hard_state = Some(HardState { term, vote: Some(replica(1)), commit });
        let mut second = GroupAppend::empty(GroupId::new(2));
        second.entries = vec![entry(at.max(3) - 2, 5 + at)];
        if at == 4 {
            first.compact = Some(CompactionPoint { index: LogIndex::new(2), term: Term::new(1) });
        }
        journal.commit(&[first, second]).expect("a healthy disk");
    }
    while gc && journal.collect_garbage().expect("a healthy disk") {}
    steps(&disk)
}

fn steps(disk: &MemoryTable) -> Vec<u8> {
    let read = disk.read().expect("a healthy disk");
    let mut steps = Vec::new();
    for (which, table) in TABLES.into_iter().enumerate() {
        for (key, _) in disk.rows(table) {
            let value = read.get(table, &key).ok().flatten().expect("it was just listed");
            let (group, at) = match which {
                0 => (0, key[7]),
                1 => (key[7], 0),
                _ => (key[7], key[15]),
            };
            steps.extend([MENDS | which as u8, group, at]);
            steps.extend(chunk(value));
        }
    }
    steps
}

pub fn seeds() -> Vec<Vec<u8>> {
    vec![rows(0, false), rows(1, false), rows(4, false), rows(6, true), rows(12, true)]
}

//! The state's tables as a damaged disk may give them back, under a machine that works on them.
//!
//! Properties: nothing panics; a scan gives what gets give, in both directions; what was applied and
//! flushed is there after a restart.

use std::ops::Bound;

use bytes::Bytes;
use polyraft_core::ids::{GroupId, LogIndex, Term};
use polyraft_core::ports::{GroupState, StateStore};
use polyraft_storage::memory::MemoryTable;
use polyraft_storage::state_store::{APPLIED, STATE, STATE_TABLES, TableStateStore};
use polyraft_storage::table::{TableStore, WriteSize};

use crate::script::{Script, chunk, set_u32};

const GROUP: GroupId = GroupId::new(1);

type Rows = Vec<(Vec<u8>, Bytes)>;

pub fn run(data: &[u8]) {
    let disk = MemoryTable::new(STATE_TABLES.len());
    let store = TableStateStore::new(disk.clone());
    let mut script = Script(data);
    while script.byte() == Some(0) && put_row(&disk, &mut script).is_some() {}
    let Ok(mut state) = store.open(GROUP) else {
        store.reset(GROUP).expect("a healthy disk");
        let state = store.open(GROUP).expect("it was reset");
        assert_eq!(rows(&*state, false), Some(Vec::new()));
        return;
    };
    while step(&store, &mut *state, &mut script).is_some() {}
    check(&*state);
    let (applied, term) = state.applied();
    let Some(next) = applied.get().checked_add(1) else { return };
    state.flushed(); // If a flush is under way, its writes are in the table.
    state.set_applied(LogIndex::new(next), term);
    if let Some(flush) = state.freeze() {
        store.flush(&[flush]).expect("a healthy disk");
        state.flushed();
    }
    let again = store.open(GROUP).expect("it was just written");
    assert_eq!(again.applied(), state.applied());
    assert_eq!(rows(&*again, false), rows(&*state, false));
}

fn put_row(disk: &MemoryTable, script: &mut Script<'_>) -> Option<()> {
    let what = script.byte()?;
    let (group, table) = (u64::from(what & 3), if what & 4 == 0 { STATE } else { APPLIED });
    let mut key = group.to_be_bytes().to_vec();
    if table == STATE {
        key.extend_from_slice(script.chunk()?);
    }
    let mut value = script.chunk()?.to_vec();
    if what & 8 != 0 && value.len() > 5 {
        if table == STATE {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&key), &value[4..]);
            set_u32(&mut value, 0, crc);
        } else {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&key), &value[..1]);
            let crc = crc32c::crc32c_append(crc, &value[5..]);
            set_u32(&mut value, 1, crc);
        }
    }
    let mut size = WriteSize::default();
    size.add(&key, &value);
    disk.write(size, &mut |write| write.put(table, &key, &value)).ok()
}

fn step(
    store: &TableStateStore<MemoryTable>,
    state: &mut dyn GroupState,
    script: &mut Script<'_>,
) -> Option<()> {
    match script.byte()? % 8 {
        0 => drop(state.put(script.chunk()?, Bytes::copy_from_slice(script.chunk()?))),
        1 => drop(state.delete(script.chunk()?)),
        2 => drop(state.get(script.chunk()?)),
        3 => state.begin(),
        4 => state.rollback(),
        5 => {
            let (applied, _) = state.applied();
            state.set_applied(LogIndex::new(applied.get().saturating_add(1)), Term::new(2));
        }
        6 => {
            if let Some(flush) = state.freeze() {
                store.flush(&[flush]).expect("a healthy disk");
            }
        }
        _ => state.flushed(),
    }
    Some(())
}

fn check(state: &dyn GroupState) {
    let forward = rows(state, false);
    let mut backward = rows(state, true);
    if let Some(rows) = &mut backward {
        rows.reverse();
    }
    if let (Some(forward), Some(backward)) = (&forward, backward) {
        assert_eq!(*forward, backward);
    }
    for (key, value) in forward.unwrap_or_default() {
        if !key.is_empty() && key.len() <= polyraft_core::limits::STATE_KEY_BYTES_MAX {
            assert_eq!(state.get(&key).expect("it was just scanned"), Some(value));
        }
    }
}

/// Every row, or `None` if one is damaged.
fn rows(state: &dyn GroupState, reverse: bool) -> Option<Rows> {
    let mut rows = Vec::new();
    let all = (Bound::Unbounded, Bound::Unbounded);
    let scanned = state.scan(all.0, all.1, reverse, &mut |key, value| {
        rows.push((key.to_vec(), value.clone()));
        true
    });
    scanned.ok().map(|()| rows)
}

pub fn seeds() -> Vec<Vec<u8>> {
    let row = |key: &[u8], value: &[u8]| {
        [&[0, 9][..], &chunk(key), &chunk(&[&[0; 4][..], value].concat())].concat()
    };
    let applied = |kind: u8, index: u64| {
        let fields = [&[1, 0, 0, 0, 0, kind][..], &index.to_le_bytes(), &[2, 0, 0, 0, 0, 0, 0, 0]];
        [&[0, 13][..], &chunk(&fields.concat())].concat()
    };
    let put = |key: &[u8], value: &[u8]| [&[0][..], &chunk(key), &chunk(value)].concat();
    let begin = [1];
    let rows = [row(b"a", b"1"), row(b"b", b"2"), applied(0, 5)].concat();
    let work = [&put(b"a", b"3")[..], &[5, 6], &put(b"c", b"4"), &[3], &put(b"d", b""), &[4, 7]];
    let delete = [&[1][..], &chunk(b"b"), &[5, 6, 7]].concat();
    vec![
        [&begin[..], &work.concat()].concat(),
        [&rows[..], &begin, &work.concat()].concat(),
        [&rows[..], &begin, &delete].concat(),
        [&rows[..], &applied(1, 0), &begin].concat(),
        [&applied(7, 1)[..], &begin].concat(),
    ]
}

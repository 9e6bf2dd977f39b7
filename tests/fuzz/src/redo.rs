//! The redo log's file: frames of rows, torn, damaged, forged or of an earlier use.
//!
//! Properties: nothing panics; a file without damage gives back exactly what was written in its
//! generation; a frame takes a block at least.

use polyraft_storage::fuzzing::{redo_frame, redo_rows};

use crate::script::{Script, set_u32};

const BLOCK_BYTES: usize = 4096;
const HEADER_BYTES: usize = 36;
const FILE_BYTES_MAX: usize = 16 * BLOCK_BYTES;
const NOW: u64 = 7;

pub fn run(data: &[u8]) {
    let mut script = Script(data);
    let mut file = File::default();
    while file.bytes.len() < FILE_BYTES_MAX && file.step(&mut script).is_some() {}
    let rows = redo_rows(&file.bytes, NOW);
    assert!(rows.len() <= file.bytes.len() / BLOCK_BYTES);
    if !file.is_damaged {
        let rows: Vec<_> = rows.into_iter().map(|(key, value)| (key, value.to_vec())).collect();
        assert_eq!(rows, file.written);
    }
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    ordinal: u64,
    written: Vec<(Box<[u8]>, Vec<u8>)>,
    is_damaged: bool,
}

impl File {
    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        match script.byte()? % 4 {
            0 => self.write(script)?,
            1 => self.add_damaged(script.chunk()?.to_vec()),
            2 => self.forge(script)?,
            _ => self.flip(script)?,
        }
        Some(())
    }

    fn write(&mut self, script: &mut Script<'_>) -> Option<()> {
        let what = script.byte()?;
        let key = script.bytes(usize::from(what & 0xF)).to_vec();
        let start = script.bytes(usize::from(what >> 4));
        let mut value = start.to_vec();
        // Long values in few bytes of input.
        value.resize(usize::from(script.byte()?) * 40, what);
        let generation = if what & 0x10 == 0 { NOW } else { NOW - 1 };
        self.bytes.extend(redo_frame((generation, self.ordinal), &key, &value));
        self.ordinal += 1;
        if generation == NOW {
            self.written.push((key.into(), value));
        }
        Some(())
    }

    /// A header of any numbers under a right checksum.
    fn forge(&mut self, script: &mut Script<'_>) -> Option<()> {
        let mut block = vec![0; HEADER_BYTES];
        let key_len = usize::from(script.byte()?);
        set_u32(&mut block, 0, 1);
        block[8..16].copy_from_slice(&NOW.to_le_bytes());
        block[16..24].copy_from_slice(&script.number()?.to_le_bytes());
        set_u32(&mut block, 24, key_len as u32);
        block[28..36].copy_from_slice(&script.number()?.to_le_bytes());
        block.extend_from_slice(script.bytes(key_len));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..4]), &block[8..]);
        set_u32(&mut block, 4, crc);
        self.add_damaged(block);
        Some(())
    }

    fn add_damaged(&mut self, mut bytes: Vec<u8>) {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        self.bytes.extend(bytes);
        self.is_damaged = true;
    }

    fn flip(&mut self, script: &mut Script<'_>) -> Option<()> {
        let at = usize::from(u16::from_le_bytes([script.byte()?, script.byte()?]));
        let bit = 1 << (script.byte()? & 7);
        *self.bytes.get_mut(at)? ^= bit;
        self.is_damaged = true;
        Some(())
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let write = |key: &[u8], value: &[u8], length: u8| {
        let what = (value.len() as u8) << 4 | key.len() as u8;
        [&[0, what][..], key, value, &[length]].concat()
    };
    let three = [write(b"a", b"", 0), write(b"bc", b"xy", 200), write(b"d", b"", 1)].concat();
    let forged = [&[2, 3][..], &1_u64.to_le_bytes(), &5_u64.to_le_bytes(), b"key"].concat();
    vec![
        write(b"key", b"\x01\0\0\0", 0),
        three.clone(),
        [&three[..], &[3, 4, 0x10, 1]].concat(),
        [&three[..], &forged].concat(),
        [&[1, 4, 0, 1, 0, 0, 0][..], &write(b"old", b"1", 3)].concat(),
    ]
}

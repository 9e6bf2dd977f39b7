//! The batch: the data of a normal entry.
//!
//! Properties: a batch has one encoding; damage that the checksum sees is refused.

use bytes::Bytes;
use polyraft_core::batch::{self, Unit};

use crate::script::set_u32;

const CRC_OFFSET: usize = 2;
const TIME_OFFSET: usize = 6;

pub fn run(data: &[u8]) {
    decode(data);
    if data.len() < TIME_OFFSET {
        return;
    }
    let mut mended = data.to_vec();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&data[..CRC_OFFSET]), &data[TIME_OFFSET..]);
    set_u32(&mut mended, CRC_OFFSET, crc);
    decode(&mended);
}

fn decode(data: &[u8]) {
    let Ok(batch) = batch::decode(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(batch::encode(batch.time_ms, batch.units.iter()), data);
}

/// A batch of these units: whether each is atomic, and the lengths of its commands.
pub fn encode(units: &[(bool, &[usize])]) -> Bytes {
    let unit = |(atomic, lens): &(bool, &[usize])| Unit {
        atomic: *atomic,
        commands: lens.iter().map(|len| Bytes::from(vec![b'c'; *len])).collect(),
    };
    let units: Vec<_> = units.iter().map(unit).collect();
    batch::encode(1_700_000_000_000, units.iter())
}

pub fn seeds() -> Vec<Vec<u8>> {
    let batches: [&[(bool, &[usize])]; 5] = [
        &[(false, &[1])],
        &[(false, &[0]), (false, &[5])],
        &[(true, &[1, 2, 3]), (false, &[200])],
        &[(true, &[0; 70])],
        &[(false, &[130]), (true, &[0, 0])],
    ];
    batches.iter().map(|units| encode(units).to_vec()).collect()
}

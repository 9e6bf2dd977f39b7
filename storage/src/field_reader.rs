//! Reads fixed-width fields from bytes that may be anything.
//!
//! Promise: never panics and never allocates more than a small multiple of the input.

use polyraft_core::wire::ORDINAL_MAX;

/// The rule that some bytes break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub &'static str);

/// A position in some bytes; all integers are little-endian.
#[derive(Debug, Clone)]
pub(crate) struct FieldReader<'a> {
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed("cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed("cut short"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// An index or a sequence: none is so large that adding to it could overflow.
    pub fn ordinal(&mut self) -> Result<u64, Malformed> {
        match self.u64()? {
            value if value <= ORDINAL_MAX => Ok(value),
            _ => Err(Malformed("number out of range")),
        }
    }

    /// A `u32` count of items of at least `item_bytes` each, all of which must still be there.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        match count.checked_mul(item_bytes) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            _ => Err(Malformed("count beyond the end")),
        }
    }

    /// Ends the reading.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}

/// A length as it is stored.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("one commit is bounded far below 4 GiB")
}

//! polyraft's production storage.
pub mod identity;
pub mod lmdb;
pub mod memory;
pub mod table;

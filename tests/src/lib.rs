//! What polyraft's tests above unit level stand on: clusters that can be broken on purpose.

pub mod ledger;
pub mod lossy_transport;
pub mod memory_node;

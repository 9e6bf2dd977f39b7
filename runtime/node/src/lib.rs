//! placeholder

pub mod certificates;
pub mod config;
pub mod config_batching;
pub mod config_cluster;
pub mod config_error;
mod config_file;
pub mod config_limits;
pub mod profile;

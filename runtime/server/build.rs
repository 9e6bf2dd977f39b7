//! Generates the etcd messages, services and clients, and the keyspace's own records, without
//! `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protos = ["proto/mvcc_kv.proto", "proto/etcd_rpc.proto", "proto/keyspace.proto"];
    let descriptors = protox::compile(protos, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

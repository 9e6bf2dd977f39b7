//! Generated messages: etcd's API, which clients see, and the keyspace's own records.

/// `mvccpb`: the stored pair as clients see it.
#[allow(missing_docs, clippy::all)]
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// `etcdserverpb`: requests, responses, services and clients of the etcd v3 API.
#[allow(missing_docs, clippy::all)]
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// What is proposed to, asked of and stored in a keyspace's group.
#[allow(missing_docs, clippy::all)]
pub mod keyspace {
    tonic::include_proto!("keyspace");
}

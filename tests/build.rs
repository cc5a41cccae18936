//! Generates the gRPC services of `src/spire` from descriptions in Rust, so that no .proto file is copied and
//! no protoc is needed. The messages are in `src/spire/proto.rs`; names and routes are those of SPIRE's
//! delegatedidentity.proto (`spire.api.agent.delegatedidentity.v1`) and SPIFFE's workload.proto, which has no
//! package.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let delegated = |name| format!("crate::spire::proto::delegated::{name}");
    let workload = |name| format!("crate::spire::proto::workload::{name}");
    let services = [
        service("spire.api.agent.delegatedidentity.v1", "DelegatedIdentity")
            .method(
                method("fetch_jwt_svids", "FetchJWTSVIDs")
                    .input_type(delegated("JwtSvidsRequest"))
                    .output_type(delegated("JwtSvidsResponse"))
                    .build(),
            )
            .method(
                method("subscribe_to_x509_svids", "SubscribeToX509SVIDs")
                    .input_type(delegated("X509SvidsRequest"))
                    .output_type(delegated("X509SvidsResponse"))
                    .server_streaming()
                    .build(),
            )
            .method(
                method("subscribe_to_x509_bundles", "SubscribeToX509Bundles")
                    .input_type(delegated("X509BundlesRequest"))
                    .output_type(delegated("X509BundlesResponse"))
                    .server_streaming()
                    .build(),
            )
            .method(
                method("subscribe_to_jwt_bundles", "SubscribeToJWTBundles")
                    .input_type(delegated("JwtBundlesRequest"))
                    .output_type(delegated("JwtBundlesResponse"))
                    .server_streaming()
                    .build(),
            )
            .build(),
        service("", "SpiffeWorkloadAPI")
            .method(
                method("fetch_jwt_svid", "FetchJWTSVID")
                    .input_type(workload("JwtSvidRequest"))
                    .output_type(workload("JwtSvidResponse"))
                    .build(),
            )
            .method(
                method("fetch_jwt_bundles", "FetchJWTBundles")
                    .input_type(workload("JwtBundlesRequest"))
                    .output_type(workload("JwtBundlesResponse"))
                    .server_streaming()
                    .build(),
            )
            .method(
                method("fetch_x509_svid", "FetchX509SVID")
                    .input_type(workload("X509SvidRequest"))
                    .output_type(workload("X509SvidResponse"))
                    .server_streaming()
                    .build(),
            )
            .method(
                method("fetch_x509_bundles", "FetchX509Bundles")
                    .input_type(workload("X509BundlesRequest"))
                    .output_type(workload("X509BundlesResponse"))
                    .server_streaming()
                    .build(),
            )
            .build(),
    ];
    Builder::new().compile(&services);
    println!("cargo::rerun-if-changed=build.rs");
}

fn service(package: &str, name: &str) -> tonic_build::manual::ServiceBuilder {
    Service::builder().name(name).package(package)
}

fn method(name: &str, route: &str) -> tonic_build::manual::MethodBuilder {
    Method::builder()
        .name(name)
        .route_name(route)
        .codec_path("tonic_prost::ProstCodec")
}

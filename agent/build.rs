//! Generates the gRPC services of `src/csi` from descriptions in Rust, so that
//! no .proto file is copied and no protoc is needed. The messages are in
//! `src/csi/proto.rs`; names and routes are those of csi.proto, CSI 1.x.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let identity = [
        ("get_plugin_info", "GetPluginInfo"),
        ("get_plugin_capabilities", "GetPluginCapabilities"),
        ("probe", "Probe"),
    ];
    let node = [
        ("node_publish_volume", "NodePublishVolume"),
        ("node_unpublish_volume", "NodeUnpublishVolume"),
        ("node_get_capabilities", "NodeGetCapabilities"),
        ("node_get_info", "NodeGetInfo"),
    ];
    Builder::new().compile(&[service("Identity", &identity), service("Node", &node)]);
    println!("cargo::rerun-if-changed=build.rs");
}

/// A service of package `csi.v1` whose unary methods take `<Route>Request` and
/// return `<Route>Response`.
fn service(name: &str, methods: &[(&str, &str)]) -> Service {
    methods
        .iter()
        .fold(
            Service::builder().name(name).package("csi.v1"),
            |service, (method, route)| {
                service.method(
                    Method::builder()
                        .name(method)
                        .route_name(route)
                        .input_type(format!("crate::csi::proto::{route}Request"))
                        .output_type(format!("crate::csi::proto::{route}Response"))
                        .codec_path("tonic_prost::ProstCodec")
                        .build(),
                )
            },
        )
        .build()
}

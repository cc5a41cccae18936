//! Generates the gRPC services of `src/csi` from descriptions in Rust, so that
//! no .proto file is copied and no protoc is needed. The messages are in
//! `src/csi/proto.rs` and `src/csi/registration/proto.rs`; names and routes are
//! those of csi.proto, CSI 1.x, and of kubelet's pluginregistration/v1 api.proto.

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
    let csi = |name, methods: &[(&str, &str)]| {
        let methods = methods.iter().map(|(method, route)| {
            let message = |kind| format!("crate::csi::proto::{route}{kind}");
            unary(method, route, message("Request"), message("Response"))
        });
        service("csi.v1", name, methods.collect())
    };
    let message = |name| format!("crate::csi::registration::proto::{name}");
    let registration = vec![
        unary(
            "get_info",
            "GetInfo",
            message("InfoRequest"),
            message("PluginInfo"),
        ),
        unary(
            "notify_registration_status",
            "NotifyRegistrationStatus",
            message("RegistrationStatus"),
            message("RegistrationStatusResponse"),
        ),
    ];
    Builder::new().compile(&[
        csi("Identity", &identity),
        csi("Node", &node),
        service("pluginregistration", "Registration", registration),
    ]);
    println!("cargo::rerun-if-changed=build.rs");
}

fn service(package: &str, name: &str, methods: Vec<Method>) -> Service {
    methods
        .into_iter()
        .fold(
            Service::builder().name(name).package(package),
            |service, method| service.method(method),
        )
        .build()
}

/// A method that takes one message and returns one; both by their Rust path.
fn unary(name: &str, route: &str, input: String, output: String) -> Method {
    Method::builder()
        .name(name)
        .route_name(route)
        .input_type(input)
        .output_type(output)
        .codec_path("tonic_prost::ProstCodec")
        .build()
}

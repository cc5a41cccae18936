//! Messages of kubelet's plugin registration, by hand, under the field numbers
//! of k8s.io/kubelet/pkg/apis/pluginregistration/v1/api.proto (package
//! `pluginregistration`).

/// Asks what this plugin is.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct InfoRequest {}

/// What this plugin is.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct PluginInfo {
    /// `CSIPlugin`.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// The driver's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where the driver's own socket is, as kubelet sees it.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// Versions of CSI.
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

/// What became of the registration.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RegistrationStatus {
    /// Whether the plugin is registered.
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    /// Why not; empty otherwise.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// The status is taken note of.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RegistrationStatusResponse {}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// Bytes as a protobuf encoder of api.proto writes them: field number × 8 + wire type.
    #[test]
    fn the_field_numbers_are_those_of_api_proto() {
        let info = PluginInfo {
            r#type: "t".into(),
            name: "n".into(),
            endpoint: "e".into(),
            supported_versions: vec!["1".into(), "2".into()],
        };
        assert_eq!(
            info.encode_to_vec(),
            b"\x0a\x01t\x12\x01n\x1a\x01e\x22\x011\x22\x012"
        );
        let status = RegistrationStatus::decode(&b"\x08\x01\x12\x01x"[..]).unwrap();
        assert!(status.plugin_registered && status.error == "x");
    }
}

//! Messages of the Container Storage Interface, by hand: only the fields that
//! this driver reads or writes, under the field numbers of csi.proto
//! (container-storage-interface/spec, CSI 1.x, package `csi.v1`). Unknown
//! fields are skipped by the decoder, as protobuf demands.

use std::collections::HashMap;
use std::fmt;

/// Asks for the driver's name.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetPluginInfoRequest {}

/// The driver's name and version.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetPluginInfoResponse {
    /// The name under which CSIDriver and pods refer to the driver.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The program's version.
    #[prost(string, tag = "2")]
    pub vendor_version: String,
}

/// Asks what the driver offers beyond the node service.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetPluginCapabilitiesRequest {}

/// Nothing: there is no controller service. (The list `capabilities = 1` stays empty.)
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetPluginCapabilitiesResponse {}

/// Asks whether the driver works.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ProbeRequest {}

/// Whether the driver works.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ProbeResponse {
    /// True once volumes can be published.
    #[prost(message, optional, tag = "1")]
    pub ready: Option<BoolValue>,
}

/// `google.protobuf.BoolValue`.
#[derive(Clone, Copy, PartialEq, ::prost::Message)]
pub struct BoolValue {
    /// The value.
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// Publishes a volume to one pod.
#[derive(Clone, PartialEq, ::prost::Message)]
#[prost(skip_debug)]
pub struct NodePublishVolumeRequest {
    /// Made by kubelet for an inline volume: `csi-` and a hash.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where the volume has to appear.
    #[prost(string, tag = "4")]
    pub target_path: String,
    /// How the volume is to be used.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// Whether the pod may only read it.
    #[prost(bool, tag = "6")]
    pub readonly: bool,
    /// Has the pod's tokens where CSIDriver sets `serviceAccountTokenInSecrets`.
    #[prost(map = "string, string", tag = "7")]
    pub secrets: HashMap<String, String>,
    /// The pod's identity (`podInfoOnMount`) and, else, its tokens.
    #[prost(map = "string, string", tag = "8")]
    pub volume_context: HashMap<String, String>,
}

/// Both maps may hold tokens: they never reach a log.
impl fmt::Debug for NodePublishVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePublishVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("target_path", &self.target_path)
            .finish_non_exhaustive()
    }
}

/// The volume is published.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct NodePublishVolumeResponse {}

/// How a volume is to be used.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct VolumeCapability {
    /// As a block device or as a file system.
    #[prost(oneof = "AccessType", tags = "1, 2")]
    pub access_type: Option<AccessType>,
}

impl VolumeCapability {
    /// What kubelet sends for an inline volume.
    pub fn mount() -> Self {
        Self {
            access_type: Some(AccessType::Mount(MountVolume {})),
        }
    }
}

/// As a block device or as a file system.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum AccessType {
    /// A block device.
    #[prost(message, tag = "1")]
    Block(BlockVolume),
    /// A file system.
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

/// A block device; no fields.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct BlockVolume {}

/// A file system; its fields (type, flags, group) mean nothing for a tmpfs of ours.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct MountVolume {}

/// Takes a volume from one pod.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct NodeUnpublishVolumeRequest {
    /// As in the publish request.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// As in the publish request.
    #[prost(string, tag = "2")]
    pub target_path: String,
}

/// The volume is gone.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct NodeUnpublishVolumeResponse {}

/// Asks what the node service offers beyond publish.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct NodeGetCapabilitiesRequest {}

/// Nothing: no staging, no statistics. (The list `capabilities = 1` stays empty.)
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct NodeGetCapabilitiesResponse {}

/// Asks for the node's name.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct NodeGetInfoRequest {}

/// The node's name.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct NodeGetInfoResponse {
    /// The node's name; kubelet writes it to CSINode.
    #[prost(string, tag = "1")]
    pub node_id: String,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// Bytes as a protobuf encoder of csi.proto writes them: field number × 8 + wire type.
    #[test]
    fn the_field_numbers_are_those_of_csi_proto() {
        let request = NodePublishVolumeRequest {
            volume_id: "v".into(),
            target_path: "/t".into(),
            volume_capability: Some(VolumeCapability::mount()),
            readonly: true,
            secrets: HashMap::from([("s".into(), "1".into())]),
            volume_context: HashMap::from([("c".into(), "2".into())]),
        };
        assert_eq!(
            request.encode_to_vec(),
            b"\x0a\x01v\x22\x02/t\x2a\x02\x12\x00\x30\x01\x3a\x06\x0a\x01s\x12\x011\x42\x06\x0a\x01c\x12\x012"
        );
        assert_eq!(
            NodeUnpublishVolumeRequest {
                volume_id: "v".into(),
                target_path: "/t".into()
            }
            .encode_to_vec(),
            b"\x0a\x01v\x12\x02/t"
        );
        assert_eq!(
            ProbeResponse {
                ready: Some(BoolValue { value: true })
            }
            .encode_to_vec(),
            b"\x0a\x02\x08\x01"
        );
    }

    #[test]
    fn unknown_fields_are_skipped_and_tokens_are_not_in_debug_output() {
        // volume_capability with access_mode = 3, which this driver does not read.
        let request = NodePublishVolumeRequest::decode(
            &b"\x0a\x01v\x2a\x06\x12\x00\x1a\x02\x08\x01\x42\x0c\x0a\x03key\x12\x05token"[..],
        )
        .unwrap();
        assert_eq!(request.volume_capability, Some(VolumeCapability::mount()));
        assert_eq!(request.volume_context["key"], "token");
        assert!(!format!("{request:?}").contains("token\""));
    }
}

//! The longest texts of a binding, in bytes.
//!
//! A binding is held by every agent and by the control plane, so what flows
//! into one is bounded: by whoever reads a Secret, and by the API server
//! (`maxLength` in manifests/base/crd.yaml counts characters, of which no text
//! has more than bytes).

/// `host[:port]/path` of a registry, or a cluster's server URL.
pub const ADDRESS: usize = 2048;
/// The audience of a token.
pub const AUDIENCE: usize = 2048;
/// The URL of a token endpoint or of a proxy, as it is written into the binding.
pub const URL: usize = 2048;
/// An account at a registry, or the `service` of its token endpoint.
pub const NAME: usize = 512;
/// A subject: the longest SPIFFE ID.
pub const SUBJECT: usize = 2048;
/// The name of a Kubernetes object, such as a project or a service account.
pub const OBJECT_NAME: usize = 253;
/// Who an identity is at its cloud: a role, an account, a provider.
pub const ACCOUNT: usize = 2048;

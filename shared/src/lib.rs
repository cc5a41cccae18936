//! The contract between the parts, byte for byte.
//!
//! Everything that two programs must agree on lives here: the CredentialBinding
//! type, the files in a consumer pod's credential volume, the identity API's
//! messages, where tokens may go and the error catalogue.
//! There is no IO, no async runtime and no Kubernetes client in this crate:
//! text and bytes flow in, types and named errors flow out.

pub mod allow_list;
pub mod binding;
pub mod bounds;
pub mod clouds;
pub mod conflicts;
pub mod errors;
pub mod exec_credential;
pub mod identity_api;
pub mod layout;
pub mod proxy_view;
pub mod registry;
pub mod selectors;

//! The node agent of argocd-workload-identity.
//!
//! ```text
//!  kubelet ──▶ csi ─────▶ engine ──────▶ acquire ──▶ identity ──▶ control plane, SPIRE
//!                          │  ▲             └──────▶ exchange ──▶ registry
//!  bindings ──(watch)──────┤  └── refresh, demand (pure)
//!                          ├──▶ volume ──▶ store ──▶ files on a tmpfs per pod
//!                          └──▶ report ─┬▶ status ───▶ CredentialBinding
//!                                       └▶ notices ──▶ events on pods
//! ```
//!
//! What flows in: pods that kubelet published here, with their own tokens, and
//! CredentialBindings. What flows out: credential files, and this node's entry
//! in each binding's status. Architecture invariants:
//!
//! - [`demand`], [`refresh`] and [`report`] do no IO and read no clock;
//! - [`engine`] is the only owner of state, and a level-triggered one;
//! - [`store`] is the only writer of credential files;
//! - [`exchange::http`] is the only way of an identity token to a registry.

pub mod acquire;
pub mod authorities;
pub mod bindings;
pub mod config;
pub mod csi;
pub mod demand;
pub mod docker_config;
pub mod engine;
pub mod exchange;
pub mod health;
pub mod identity;
pub mod jwt;
pub mod notices;
pub mod refresh;
pub mod report;
pub mod run;
pub mod status;
pub mod store;
pub mod volume;

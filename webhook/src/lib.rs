//! The control plane of argocd-workload-identity.
//!
//! ```text
//! kube-apiserver ─▶ server ─▶ admission (pure, in the core) ─▶ patch, warnings or a denial
//! Secrets ─▶ controller (while the lease is held) ─▶ CredentialBindings, conditions, events
//! agents ─▶ server ─▶ issuer ─▶ identity tokens; its documents for whoever verifies them
//! kubelet, Prometheus ─▶ server ─▶ readiness, metrics
//! tls folder ─▶ tls ─▶ every TLS listener
//! a user's command line ─▶ args ─▶ generate ─▶ documents, findings
//! ```
//!
//! [`config`] turns the command line into a validated configuration, [`run`]
//! starts the parts and stops them in order.

pub mod args;
pub mod body;
pub mod config;
pub mod connections;
pub mod controller;
pub mod generate;
pub mod issuer;
pub mod kube;
pub mod lease;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod probe;
pub mod readiness;
pub mod report;
pub mod run;
pub mod server;
pub mod serving_metrics;
pub mod source;
pub mod tls;
pub mod wipe;

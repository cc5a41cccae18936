//! The control plane of argocd-workload-identity.
//!
//! ```text
//! kube-apiserver ─▶ server ─▶ admission (pure) ─▶ patch, warnings or a denial
//! kubelet, Prometheus ─▶ server ─▶ readiness, metrics
//! tls folder ─▶ tls ─▶ every TLS listener
//! a user's command line ─▶ cli ─▶ documents, findings
//! ```
//!
//! [`config`] turns the command line into a validated configuration, [`run`]
//! starts the parts and stops them in order.

pub mod account;
pub mod admission;
pub mod body;
pub mod cli;
pub mod config;
pub mod connections;
pub mod controller;
pub mod derive;
pub mod issuer;
pub mod key_secret;
pub mod lease;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod probe;
pub mod proxy_key;
pub mod readiness;
pub mod report;
pub mod run;
pub mod server;
pub mod serving_metrics;
pub mod source;
pub mod tls;
pub mod wipe;

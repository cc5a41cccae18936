//! The credential proxy: a sidecar in repo-server through which Argo CD reaches
//! the repositories of a binding, without ever seeing a credential.
//!
//! ```text
//! Argo CD ── CONNECT host, Proxy-Authorization: binding:key ──▶ serve
//!                                                       parse/ authorize
//!     not bound: blind tunnel, plain ◀─────────────────────────┤
//!            bound: TLS with a leaf of the pod's own CA (ca) ◀─┘
//!   request ─▶ forward: scope, headers ─▶ upstream (verified TLS, HTTP/1.1 or 2)
//!                 401 ─▶ parse/challenge ─▶ Basic, or realm ─▶ flights, tokens
//! upstream, tunnels, plain ─▶ dial ─▶ (environment: proxies) ─▶ host
//! volume view, argocd-tls-certs-cm ─▶ sync ─▶ bindings, roots, folder for Argo CD
//! ```
//!
//! A credential goes to the host that its binding names, and for registry
//! tokens to the realm that this host announces, if that is on the same host or
//! on one that the binding allows. It is used for reading below the binding's
//! repository path; other paths of the host pass without it. Redirects are left
//! to the client. Nothing is buffered: bodies stream both ways. Plain HTTP goes
//! to hosts that nobody bound, without a credential. The way to every host is
//! direct, or through the binding's or the environment's proxy.

pub mod authorize;
pub mod ca;
pub mod dial;
pub mod environment;
pub mod flights;
pub mod folder;
pub mod forward;
pub mod headers;
mod insecure;
pub mod parse;
pub mod plain;
pub mod realm;
pub mod refusal;
pub mod run;
pub mod scope;
pub mod serve;
pub mod sync;
pub mod tokens;
pub mod upstream;

use http_body_util::combinators::BoxBody;
use hyper::body::Bytes;

/// A streamed body.
pub type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

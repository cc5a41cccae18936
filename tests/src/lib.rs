//! The harness: real components as values that stop when dropped.
//!
//! ```text
//!   peers, packages, binaries   what has to be built or installed, once
//!   sandbox                     private namespaces: nothing outlives a run
//!   control_plane, node         a cluster without containers
//!   cluster                     a real cluster of one node
//!   quay, registry, chart       a private registry with robot federation
//!   spire                       SPIRE's agent: identities by registration
//!   images                      container images of all that, for a real node
//!   installation                the project itself
//!   generations                 credential files that tell whether they are whole
//!   trials                      what a tier's main does with its cases
//!   argocd, sandboxed_container stock Argo CD in the pods' environment
//!   scene, node_scene           all of it: without a node, and on a real one
//!   hosts                       the hosts that guides and pages name
//!   identities                  who gives identities, and whom registry and remote cluster trust
//!   token_server, zot, keycloak token realms of registries, and a token service of OAuth 2.0
//!   upstreams                   token services and registries around the agent's exchanges
//!   aws, moto                   a scripted AWS, and a real program that speaks its protocols
//!   gcp, azure, cloud           the token services and registries of the public clouds, and what those share
//!   targets                     what Argo CD pulls from and deploys to
//! ```

pub mod admission;
pub mod argocd;
pub mod aws;
pub mod azure;
pub mod binaries;
pub mod bindings;
pub mod chart;
pub mod cloud;
pub mod cluster;
pub mod code;
pub mod control_plane;
pub mod demo;
mod folders;
pub mod gcp;
pub mod generations;
pub mod hosts;
pub mod identities;
pub mod images;
pub mod installation;
pub mod keycloak;
pub mod moto;
pub mod node;
pub mod node_scene;
pub mod packages;
pub mod peers;
pub mod ports;
pub mod process;
pub mod progress;
pub mod quay;
pub mod redis;
pub mod registry;
mod relay;
pub mod sandbox;
pub mod sandboxed_container;
pub mod scene;
pub mod spire;
pub mod targets;
pub mod teams;
pub mod token_server;
pub mod trials;
pub mod upstreams;
pub mod zot;

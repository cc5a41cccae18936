//! The way to the API server.

pub mod client;

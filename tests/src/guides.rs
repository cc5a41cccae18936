//! The hosts that the public guides name. A run that plays the guides' own YAML has each of them at a loopback address
//! of its own, where port 443 is free.

use std::net::Ipv4Addr;

/// The registry of the guide to robot federation at Quay.
pub const QUAY: Host = ("quay.example.org", Ipv4Addr::new(127, 0, 0, 2));
/// The registry of the guide to Amazon ECR.
pub const ECR: Host = (
    "123456789012.dkr.ecr.us-west-2.amazonaws.com",
    Ipv4Addr::new(127, 0, 0, 3),
);
/// The token service of its region.
pub const STS: Host = ("sts.us-west-2.amazonaws.com", Ipv4Addr::new(127, 0, 0, 4));
/// The registry's API in its region.
pub const ECR_API: Host = (
    "api.ecr.us-west-2.amazonaws.com",
    Ipv4Addr::new(127, 0, 0, 5),
);

/// A name and the address that it has.
pub type Host = (&'static str, Ipv4Addr);

/// All of them.
pub const HOSTS: [Host; 4] = [QUAY, ECR, STS, ECR_API];

/// What an administrator adds to the allow-list, since they are on loopback.
#[must_use]
pub fn allowed_hosts() -> String {
    HOSTS.map(|(name, _)| format!(",{name};private")).concat()
}

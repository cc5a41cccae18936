//! The hosts that the public guides name. A run that plays the guides' own YAML has them at loopback addresses of their
//! own, where port 443 is free.

use std::net::Ipv4Addr;

/// The registry of the guide to robot federation at Quay.
pub const QUAY: Host = ("quay.example.org", Ipv4Addr::new(127, 0, 0, 2));
/// The registry of the guide to Amazon ECR.
pub const ECR: &str = "123456789012.dkr.ecr.us-west-2.amazonaws.com";
/// Where all of AWS is.
pub const AWS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// The registries of that guide, and the services of their regions.
pub const AWS: [&str; 12] = [
    ECR,
    "api.ecr.us-west-2.amazonaws.com",
    "sts.us-west-2.amazonaws.com",
    "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com",
    "api.ecr.us-gov-west-1.amazonaws.com",
    "sts.us-gov-west-1.amazonaws.com",
    "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
    "api.ecr.cn-north-1.amazonaws.com.cn",
    "sts.cn-north-1.amazonaws.com.cn",
    "123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn",
    "api.ecr.cn-northwest-1.amazonaws.com.cn",
    "sts.cn-northwest-1.amazonaws.com.cn",
];

/// A name and the address that it has.
pub type Host = (&'static str, Ipv4Addr);

/// All of them.
pub const HOSTS: [Host; 1 + AWS.len()] = {
    let mut hosts = [QUAY; 1 + AWS.len()];
    let mut at = 0;
    while at < AWS.len() {
        hosts[at + 1] = (AWS[at], AWS_ADDRESS);
        at += 1;
    }
    hosts
};

/// What an administrator adds to the allow-list, since they are on loopback.
#[must_use]
pub fn allowed_hosts() -> String {
    HOSTS.map(|(name, _)| format!(",{name};private")).concat()
}

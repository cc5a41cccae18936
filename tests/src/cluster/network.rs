//! The node's network: a bridge that pods are plugged into, and the way out of it, which leads nowhere.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::output;

/// The node's address, and the gateway of its pods.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The pods' bridge.
pub(super) const BRIDGE: &str = "cni0";
/// Addresses of pods.
pub(super) const PODS: &str = "10.244.0.0/24";

/// Prepares the network namespace of a sandbox, where loopback is all there is.
pub(super) fn set_up() -> Result<()> {
    let address = format!("{ADDRESS}/24");
    for arguments in [
        &["link", "add", BRIDGE, "type", "bridge"][..],
        &["address", "add", &address, "dev", BRIDGE],
        &["link", "set", BRIDGE, "up"],
        // Kubernetes' components look for the address of the default route.
        &["route", "add", "default", "dev", BRIDGE],
    ] {
        output(Command::new("ip").args(arguments))
            .with_context(|| format!("ip {}", arguments.join(" ")))?;
    }
    let forward = "/proc/sys/net/ipv4/ip_forward";
    fs::write(forward, "1").with_context(|| format!("write {forward}"))
}

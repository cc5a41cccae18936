//! Free loopback ports.
//!
//! The usual trick (bind port 0, close, use the number) draws from the ephemeral range, from which
//! the kernel also takes the local port of every outgoing connection: between the close and the
//! server's own bind, any client may take it. These ports lie below that range, where only servers
//! that ask for a number by name can be.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

/// Width of the range that ports are taken from, just below the ephemeral range.
const WIDTH: u16 = 12_000;
/// Default lower end of Linux's ephemeral range, for when /proc does not tell.
const EPHEMERAL: u16 = 32_768;

static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A TCP port on which nothing listens, on any address.
///
/// One process never gets the same number twice, so that a component which restarts may keep its own.
/// Two processes start at random places of the range and so rarely meet.
///
/// # Errors
/// When every port of the range was handed out or is in use.
pub fn free() -> Result<u16> {
    let low = first_ephemeral().saturating_sub(WIDTH).max(1024);
    let start = u16::try_from(RandomState::new().hash_one(()) % u64::from(WIDTH))
        .context("port offset out of range")?;
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    for step in 0..WIDTH {
        let offset = (u32::from(start) + u32::from(step)) % u32::from(WIDTH);
        let Some(port) = u16::try_from(offset)
            .ok()
            .and_then(|offset| low.checked_add(offset))
        else {
            continue;
        };
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!(
        "no free TCP port from {low} to {}",
        low.saturating_add(WIDTH)
    )
}

fn first_ephemeral() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_twice_the_same() {
        let ports: HashSet<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn skips_a_port_in_use() {
        let port = free().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err());
    }
}

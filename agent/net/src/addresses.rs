//! Addresses that no credential goes to: this node's own, and those that only
//! a node can reach (every cloud's metadata service), in every notation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `ip` is loopback, link-local, unspecified, multicast, broadcast or
/// a metadata service; also when it is embedded in an IPv6 address.
pub fn refused(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => refused_v4(ip),
        IpAddr::V6(ip) => embedded_v4(ip).is_some_and(refused_v4) || refused_v6(ip),
    }
}

fn refused_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback()
        || ip.is_link_local()
        || ip.octets()[0] == 0
        || ip.is_multicast()
        || ip.is_broadcast()
        // Alibaba Cloud's metadata service is not link-local.
        || ip == Ipv4Addr::new(100, 100, 100, 200)
}

fn refused_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unicast_link_local()
        // AWS's metadata service over IPv6 is a unique local address.
        || ip == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
}

/// The IPv4 address in a mapped (::ffff:a.b.c.d), compatible (::a.b.c.d) or
/// NAT64 (64:ff9b::/96) address.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = ip.segments();
    let embeds = matches!(
        segments[..6],
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0]
    );
    let [.., a, b, c, d] = ip.octets();
    embeds.then(|| Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_notation_counts() {
        for ip in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "100.100.100.200",
            "::1",
            "::",
            "fe80::1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
        ] {
            assert!(refused(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(!refused(ip.parse().unwrap()), "{ip}");
        }
    }

    proptest! {
        /// No embedding of a refused IPv4 address in IPv6 gets through.
        #[test]
        fn mapped_forms_are_judged_like_the_address(ip in any::<[u8; 4]>()) {
            let v4 = Ipv4Addr::from(ip);
            prop_assert_eq!(refused(v4.to_ipv6_mapped().into()), refused(v4.into()));
        }
    }
}

//! Which hosts the key `noProxy` takes out: the list and a host flow in, yes or
//! no flows out. Pure.
//!
//! Argo CD hands `proxy` and `noProxy` of a Secret to Go's
//! `golang.org/x/net/http/httpproxy`, whose rules these are. Host names here
//! are ASCII, so its conversion of other scripts is left out.

use std::net::IpAddr;

use shared::registry::RegistryHost;

/// Whether Go connects to `host` over TLS without the proxy.
pub fn bypasses(no_proxy: &str, host: &RegistryHost) -> bool {
    let name = host.name().to_ascii_lowercase();
    let port = host.port().unwrap_or(443).to_string();
    let address: Option<IpAddr> = name.parse().ok();
    if name == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    no_proxy
        .split(',')
        .map(|entry| entry.trim().to_ascii_lowercase())
        .any(|entry| matches(&entry, &name, address, &port))
}

fn matches(entry: &str, name: &str, address: Option<IpAddr>, port: &str) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, length)) = network(entry) {
        return address.is_some_and(|address| contains(network, length, address));
    }
    let (pattern, of_port) = match split_port(entry) {
        Some((host, port)) => (host, port),
        None => (entry, ""),
    };
    if pattern.is_empty() || !(of_port.is_empty() || of_port == port) {
        return false;
    }
    if let Ok(pattern) = pattern.parse::<IpAddr>() {
        return address == Some(pattern);
    }
    let pattern = pattern
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
        .unwrap_or(pattern);
    match pattern.strip_prefix('.') {
        Some(_) => name.ends_with(pattern),
        None => {
            name == pattern
                || name
                    .strip_suffix(pattern)
                    .is_some_and(|above| above.ends_with('.'))
        }
    }
}

/// `address/length`.
fn network(entry: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = entry.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = length.parse().ok().filter(|length| *length <= longest)?;
    Some((address, length))
}

fn contains(network: IpAddr, length: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differing = network.to_bits() ^ address.to_bits();
            differing.checked_shr(32 - length).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differing = network.to_bits() ^ address.to_bits();
            differing.checked_shr(128 - length).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// Go's `net.SplitHostPort`; `None` where it fails and the whole is a host.
fn split_port(entry: &str) -> Option<(&str, &str)> {
    let (host, port) = entry.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(host) => Some((host.strip_suffix(']')?, port)),
        None => (!host.contains([':', '[', ']']) && !port.contains(']')).then_some((host, port)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(no_proxy: &str, host: &str, expected: bool) {
        let parsed = RegistryHost::parse(host).unwrap();
        assert_eq!(bypasses(no_proxy, &parsed), expected, "{no_proxy} {host}");
    }

    /// From the tests of golang.org/x/net/http/httpproxy (`TestUseProxy` and
    /// its list), for https.
    #[test]
    fn as_go_does() {
        let list = "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, \
            192.168.1.3:443, 10.0.0.0/30, 2001:db8::52:0:1, [2001:db8::52:0:2]:443, \
            [2001:db8::52:0:3]:81, 2002:db8:a::45/64";
        for (host, bypassed) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.0.0.2:8443", true),
            ("[::1]", true),
            ("[::2]", false),
            ("192.168.1.1", true),
            ("192.168.1.2", false),
            ("192.168.1.3", true),
            ("192.168.1.4", false),
            ("10.0.0.2", true),
            ("10.0.0.4", false),
            ("[2001:db8::52:0:1]", true),
            ("[2001:db8::52:0:2]", true),
            ("[2001:db8::52:0:3]", false),
            ("[2002:db8:a::123]", true),
            ("[fe80::424b:c8be:1643:a1b6]", false),
            ("barbaz.net", false),
            ("www.barbaz.net", true),
            ("foobar.com", true),
            ("www.foobar.com", true),
            ("foofoobar.com", false),
            ("baz.com", false),
            ("localhost.net", false),
            ("local.localhost", false),
            ("barbarbaz.net", false),
            ("wildcard.io", false),
            ("nested.wildcard.io", true),
            ("awildcard.io", false),
        ] {
            check(list, host, bypassed);
        }
        check("", "quay.example.org", false);
        check("other,*", "quay.example.org:8443", true);
        check("QUAY.example.org:8443", "quay.example.org:8443", true);
        check("quay.example.org:8443", "quay.example.org", false);
        check(":443,[],quay.example.org/8", "quay.example.org", false);
        check("0.0.0.0/0", "10.1.2.3", true);
        check("0.0.0.0/0", "quay.example.org", false);
    }

    proptest! {
        #[test]
        fn no_list_panics(list in "\\PC{0,40}", port in proptest::option::of(1_u16..)) {
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            let host = RegistryHost::parse(&format!("quay.example.org{port}")).unwrap();
            bypasses(&list, &host);
        }
    }
}

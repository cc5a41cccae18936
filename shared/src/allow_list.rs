//! The administrator's list of hosts that identity tokens may go to.
//!
//! `host[:port][;private][;insecure]`, separated by commas or blanks. A token
//! may always go to its registry's own host; every other host is listed here.
//! Without a port an entry covers every port.

use std::fmt;

use crate::{
    errors::{Code, Named},
    registry::RegistryHost,
};

/// Allowed hosts and what is relaxed for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    host: RegistryHost,
    permission: Permission,
}

/// What the administrator allows toward a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Permission {
    /// The host may resolve to loopback and link-local addresses.
    pub private: bool,
    /// A Secret's `insecure` counts for exchanges with this host.
    pub insecure: bool,
}

impl AllowList {
    /// Reads the list.
    ///
    /// # Errors
    /// [`Code::InvalidUrl`] for what is no host, [`Code::InvalidSecret`] for an
    /// unknown option.
    pub fn parse(text: &str) -> Result<Self, Named> {
        text.split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                let mut parts = entry.split(';');
                let host = RegistryHost::parse(parts.next().unwrap_or_default())?;
                let mut permission = Permission::default();
                for option in parts {
                    match option {
                        "private" => permission.private = true,
                        "insecure" => permission.insecure = true,
                        other => {
                            return Err(Named::new(
                                Code::InvalidSecret,
                                format!(
                                    "allow-list entry `{host}`: `{}` is not private or insecure",
                                    other.escape_debug()
                                ),
                            ));
                        }
                    }
                }
                Ok(Entry { host, permission })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// What is allowed toward `host` at `port`, or `None` if it is not listed.
    /// Several entries that fit add up.
    pub fn permission(&self, host: &str, port: u16) -> Option<Permission> {
        self.0
            .iter()
            .filter(|entry| {
                entry.host.has_name(host) && entry.host.port().is_none_or(|listed| listed == port)
            })
            .map(|entry| entry.permission)
            .reduce(|a, b| Permission {
                private: a.private || b.private,
                insecure: a.insecure || b.insecure,
            })
    }
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Entry { host, permission }) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let private = if permission.private { ";private" } else { "" };
            let insecure = if permission.insecure { ";insecure" } else { "" };
            write!(f, "{comma}{host}{private}{insecure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn looks_up_by_host_and_port() {
        let list =
            AllowList::parse("sts.example.org, quay.test:8443;private\n[::1];private;insecure")
                .unwrap();
        assert_eq!(
            list.permission("STS.example.org", 443),
            Some(Permission::default())
        );
        assert_eq!(list.permission("quay.test", 443), None);
        assert!(list.permission("quay.test", 8443).unwrap().private);
        assert!(list.permission("[::1]", 1).unwrap().insecure);
        assert_eq!(list.permission("example.org", 443), None);
        assert_eq!(AllowList::parse("").unwrap(), AllowList::default());
    }

    #[test]
    fn an_address_is_listed_in_any_spelling() {
        let list = AllowList::parse("[2001:DB8:0:0::1]:8443;private, [::1]").unwrap();
        for host in ["2001:db8::1", "[2001:db8::1]", "[2001:0db8::0001]"] {
            assert!(list.permission(host, 8443).is_some(), "{host}");
            assert!(list.permission(host, 443).is_none(), "{host}");
        }
        assert!(list.permission("0:0::1", 443).is_some());
        assert!(list.permission("::2", 443).is_none());
    }

    #[test]
    fn bad_entries_are_named() {
        assert_eq!(
            AllowList::parse("a b;c").unwrap_err().code,
            Code::InvalidSecret
        );
        assert_eq!(
            AllowList::parse("https://a").unwrap_err().code,
            Code::InvalidUrl
        );
    }

    proptest! {
        #[test]
        fn what_parses_round_trips(text in "[a-z0-9.:;,\\[\\] privatensecu-]{0,40}|\\PC*") {
            if let Ok(list) = AllowList::parse(&text) {
                prop_assert_eq!(AllowList::parse(&list.to_string()).unwrap(), list);
            }
        }
    }
}

//! Where an identity token may go. PURE: the administrator's list, a URL and
//! the registry that it is for flow in, the URL or the reason why not flows out.

use std::net::IpAddr;

use agent_net::addresses::refused;
use reqwest::Url;
use shared::allow_list::AllowList;
use shared::binding::ExchangeKind;
use shared::clouds;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;
use url::Host;

/// Decides whether an identity token may go to `url`, and whether the host may
/// have an address that is otherwise refused.
pub(super) fn permit(
    allowed: &AllowList,
    url: &str,
    own: &RegistryHost,
    kind: ExchangeKind,
) -> Result<(Url, bool), Named> {
    let invalid =
        |reason: &str| Named::new(Code::AuthUrlInvalid, format!("registry {own}: {reason}"));
    let url = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
    if url.scheme() != "https" {
        return Err(invalid("the scheme is not https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it has user information"));
    }
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return Err(invalid("it has no host"));
    };
    let name = host.to_string();
    let name = name.trim_matches(['[', ']']);
    let permission = allowed.permission(name, port);
    let is_own = own.has_name(name) && port == own.port().unwrap_or(443);
    if permission.is_none() && !is_own && !clouds::is_service(kind, name, port) {
        return Err(Named::new(
            Code::HostNotAllowed,
            format!("registry {own}: exchange at {name}:{port}"),
        ));
    }
    let private = permission.is_some_and(|it| it.private);
    let literal = match host {
        Host::Domain(_) => None,
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
    };
    if let Some(ip) = literal.filter(|ip| !private && refused(*ip)) {
        return Err(Named::new(
            Code::AddressRefused,
            format!("registry {own}: {ip}"),
        ));
    }
    Ok((url, private))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own() -> RegistryHost {
        RegistryHost::parse("quay.test:8443").unwrap()
    }

    fn code(allowed: &str, url: &str) -> Option<Code> {
        let allowed = AllowList::parse(allowed).unwrap();
        permit(&allowed, url, &own(), ExchangeKind::Quay)
            .err()
            .map(|error| error.code)
    }

    #[test]
    fn tokens_go_to_the_registrys_own_host_or_an_allowed_one() {
        assert_eq!(code("", "https://quay.test:8443/oauth2"), None);
        assert_eq!(code("", "https://QUAY.test:8443/oauth2"), None);
        assert_eq!(
            code("", "https://quay.test/oauth2"),
            Some(Code::HostNotAllowed),
            "another port may be another's"
        );
        assert_eq!(
            code("", "https://evil.test/oauth2"),
            Some(Code::HostNotAllowed)
        );
        assert_eq!(
            code("", "https://quay.test.evil.test/"),
            Some(Code::HostNotAllowed)
        );
        assert_eq!(code("sts.test", "https://sts.test/x"), None);
        assert_eq!(
            code("sts.test:8443", "https://sts.test/x"),
            Some(Code::HostNotAllowed)
        );
    }

    #[test]
    fn only_https_without_user_information() {
        for url in [
            "http://quay.test/",
            "ftp://quay.test/",
            "quay.test",
            "https://u@quay.test/",
            "https://u:p@quay.test/",
        ] {
            assert_eq!(
                code("quay.test;private;insecure", url),
                Some(Code::AuthUrlInvalid),
                "{url}"
            );
        }
    }

    #[test]
    fn addresses_of_the_node_are_refused_in_every_notation() {
        for address in [
            "127.0.0.1",
            "127.8.9.10",
            "2130706433",
            "0x7f.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[ff02::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:169.254.169.254]",
            "[::127.0.0.1]",
            "[64:ff9b::169.254.169.254]",
            "[fd00:ec2::254]",
        ] {
            let url = format!("https://{address}/");
            let host = Url::parse(&url).unwrap().host().unwrap().to_string();
            assert_eq!(code(&host, &url), Some(Code::AddressRefused), "{address}");
            assert_eq!(code(&format!("{host};private"), &url), None, "{address}");
        }
        for address in [
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "[2001:db8::1]",
            "[fd00::1]",
        ] {
            let url = format!("https://{address}/");
            assert_eq!(code(address, &url), None, "{address}");
        }
    }

    proptest! {
        #[test]
        fn no_url_panics_and_nothing_but_https_is_permitted(url in "\\PC*|[a-z]{1,6}://[a-z0-9.@:\\[\\]/]{0,20}") {
            let allowed = AllowList::parse("a;private").unwrap();
            if let Ok((url, _)) = permit(&allowed, &url, &own(), ExchangeKind::Quay) {
                prop_assert_eq!(url.scheme(), "https");
                prop_assert!(matches!(url.host_str(), Some("a" | "quay.test")));
            }
        }
    }

    #[test]
    fn a_clouds_service_is_open_to_its_own_exchange_only() {
        let code = |kind, url| {
            let found = permit(&AllowList::default(), url, &own(), kind);
            found.err().map(|error| error.code)
        };
        let sts = "https://sts.us-west-2.amazonaws.com/";
        assert_eq!(code(ExchangeKind::Ecr, sts), None);
        assert_eq!(code(ExchangeKind::Quay, sts), Some(Code::HostNotAllowed));
        assert_eq!(code(ExchangeKind::Gar, sts), Some(Code::HostNotAllowed));
        let other = "https://sts.us-west-2.amazonaws.com:8443/";
        assert_eq!(code(ExchangeKind::Ecr, other), Some(Code::HostNotAllowed));
        let api = "https://api.ecr.us-west-2.amazonaws.com/";
        assert_eq!(code(ExchangeKind::EcrPublic, api), None);
    }
}

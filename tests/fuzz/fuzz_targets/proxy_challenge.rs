//! `WWW-Authenticate` as a registry may write it: no panic, and no realm leads to a host that nobody allowed.
#![no_main]

use credential_proxy::realm;
use libfuzzer_sys::fuzz_target;
use shared::{allow_list::AllowList, binding::ProxyKind, proxy_view::{KeyHash, ProxyBinding}, registry::RegistryHost};
use agent_net::challenge::{self, Challenge};

fn binding() -> ProxyBinding {
    ProxyBinding {
        name: "a".into(),
        project: None,
        keys: vec![KeyHash::of(b"key")],
        target: RegistryHost::parse("quay.test").expect("a host"),
        path: String::new(),
        kind: ProxyKind::Oci,
        insecure: false,
        allowed_hosts: AllowList::parse("auth.test:8443").expect("a list"),
        upstream_proxy: None,
        realm: None,
        credential: None,
    }
}

fuzz_target!(|lines: Vec<&[u8]>| {
    if let Ok(Challenge::Bearer { realm, service, .. }) = challenge::parse(lines)
        && let Ok((authority, url)) = realm::locate(&binding(), realm.as_deref(), service.as_deref(), Some("a/b"))
    {
        assert!(["quay.test:443", "auth.test:8443"].contains(&authority.to_string().as_str()));
        assert_eq!(url.query_pairs().filter(|(name, _)| name == "scope").count(), 1);
    }
});

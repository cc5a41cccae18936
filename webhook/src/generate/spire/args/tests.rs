//! Flags as they are typed flow in.

use super::super::tests::settings;
use super::*;

fn refused<T: Setting + fmt::Debug>(text: &str) -> String {
    one::<T>("flag", text).unwrap_err().to_string()
}

#[test]
fn the_agent_has_the_identity_of_its_service_account() {
    assert_eq!(
        settings(&[]).agent,
        "spiffe://example.org/ns/argocd-identity/sa/argocd-identity-agent"
    );
    let own = settings(&["--installation-namespace=a", "--agent-service-account=b"]);
    assert_eq!(own.agent, "spiffe://example.org/ns/a/sa/b");
    let named = settings(&["--agent-spiffe-id=spiffe://example.org/agent"]);
    assert_eq!(named.agent, "spiffe://example.org/agent");
}

#[test]
fn another_trust_domain_is_refused() {
    let domain: TrustDomain = one("trust-domain", "example.org").unwrap();
    let id: SpiffeId = one("agent-spiffe-id", "spiffe://example.com/agent").unwrap();
    let error = id.within(&domain).unwrap_err().to_string();
    assert!(error.contains("another trust domain"), "{error}");
}

#[test]
fn the_nodes_have_a_name_where_entries_are_below_of_them() {
    let nodes = |flags: &[&str]| settings(flags).nodes.is_some();
    assert!(nodes(&[]));
    assert!(nodes(&["--format=entry-create", "--parent=agent"]));
    assert!(!nodes(&["--parent=agent"]));
    assert!(!nodes(&["--format=cluster-spiffe-ids"]));
}

#[test]
fn bad_settings_are_refused_with_advice() {
    for (error, reason) in [
        (refused::<Word>(""), "needed here"),
        (refused::<Word>("a b"), "only a-z"),
        (refused::<Word>(".."), "only a-z"),
        (refused::<NodeLabel>("a"), "no `=`"),
        (refused::<NodeLabel>("a/b/=c"), "no label"),
        (refused::<NodeLabel>("=c"), "no label"),
        (refused::<NodeLabel>("a=b:c"), "no label"),
        (refused::<Ttl>("0s"), "no time at all"),
        (refused::<Ttl>("1500ms"), "whole number"),
        (refused::<Ttl>("600000h"), "too many"),
        (refused::<Ttl>("1d"), "no duration"),
        (refused::<SelectorTemplate>("k8s"), "not type:value"),
    ] {
        assert!(error.contains(reason), "{error}");
    }
    assert!(one::<SpiffeId>("a", "spiffe://example.org").is_err());
    assert!(one::<SpiffeId>("a", "spiffe://example.org/a//b").is_err());
    assert!(one::<SpiffeId>("a", "https://example.org/a").is_err());
}

#[test]
fn a_node_label_is_a_selector_of_k8s_psat() {
    let selector = |text| one::<NodeLabel>("node-label", text).unwrap().selector();
    assert_eq!(
        selector("argocd=true").to_string(),
        "k8s_psat:agent_node_label:argocd:true"
    );
    assert_eq!(
        selector("node-role.kubernetes.io/worker=").to_string(),
        "k8s_psat:agent_node_label:node-role.kubernetes.io/worker:"
    );
}

//! Bindings and consumers are written down, the demand is looked at.

use proptest::prelude::*;
use shared::binding::{
    CredentialKind, Exchange, Identity, Provider, ProxyDelivery, ProxyKind, Target,
};
use shared::proxy_view::KeyHash;

use super::*;

/// A consumer in namespace `argocd`.
pub(crate) fn consumer(service_account: &str) -> Consumer {
    Consumer {
        pod_uid: format!("uid-{service_account}"),
        pod: format!("{service_account}-0"),
        namespace: "argocd".into(),
        service_account: service_account.into(),
        volume: format!("/pods/{service_account}").into(),
        view: View::ArgoCd,
        token: "pod-token".into(),
        token_expires_at: Timestamp::MAX,
    }
}

pub(crate) fn reference(name: &str) -> BindingRef {
    BindingRef {
        namespace: "argocd".into(),
        name: name.into(),
    }
}

/// An unscoped Quay registry for the repo-server.
pub(crate) fn registry(created: i64) -> Binding {
    Binding {
        created_at: Timestamp::from_second(created).unwrap(),
        generation: 1,
        spec: CredentialBindingSpec {
            target: Target {
                kind: TargetKind::Registry,
                address: "quay.test:8443/prod/charts".into(),
            },
            project: None,
            provider: Provider::Spiffe,
            identity: Identity {
                subject: "spiffe://td/ns/argocd/sa/argocd-global".into(),
                audience: "quay.test".into(),
                service_account: "argocd-global".into(),
                credential: CredentialKind::SpiffeJWT,
            },
            exchange: Exchange {
                username: Some("prod+argocd".into()),
                ..Exchange::of(ExchangeKind::Quay)
            },
            delivery: Delivery::DockerConfig,
            consumers: vec!["repo-server".into()],
            proxy: None,
        },
        reported_here: false,
    }
}

/// A cluster for the controller and the server.
pub(crate) fn cluster(created: i64) -> Binding {
    let mut binding = registry(created);
    binding.spec.target = Target {
        kind: TargetKind::Cluster,
        address: "https://spoke.test:6443".into(),
    };
    binding.spec.identity.subject = "spiffe://td/ns/argocd/sa/argocd-application-controller".into();
    binding.spec.identity.audience = "spoke".into();
    binding.spec.exchange = Exchange::of(ExchangeKind::None);
    binding.spec.delivery = Delivery::Exec;
    binding.spec.consumers = vec!["controller".into(), "server".into()];
    binding
}

/// A project's Quay registry, delivered by the credential proxy.
pub(crate) fn proxied(project: &str, created: i64) -> Binding {
    change(registry(created), |it| {
        it.project = Some(project.into());
        it.identity.subject = format!("spiffe://td/ns/argocd/sa/argocd-project-{project}");
        it.identity.service_account = format!("argocd-project-{project}");
        it.exchange.username = Some(format!("{project}+argocd"));
        it.delivery = Delivery::Proxy;
        it.proxy = Some(ProxyDelivery {
            key_sha256: vec![KeyHash::of(project.as_bytes()).to_hex()],
            previous_key_until: None,
            kind: ProxyKind::Oci,
            insecure: false,
            upstream_proxy: None,
        });
    })
}

/// The same pod's volume for the credential proxy.
pub(crate) fn sidecar(service_account: &str) -> Consumer {
    let consumer = consumer(service_account);
    Consumer {
        volume: consumer.volume.join("proxy"),
        view: View::Proxy,
        ..consumer
    }
}

fn code(demand: &Demand, name: &str) -> Option<Code> {
    demand.refused.get(&reference(name)).map(|error| error.code)
}

pub(crate) fn change(
    mut binding: Binding,
    edit: impl FnOnce(&mut CredentialBindingSpec),
) -> Binding {
    edit(&mut binding.spec);
    binding
}

#[test]
fn a_consumer_gets_what_its_service_account_is_listed_for() {
    let bindings = Bindings::from([
        (reference("charts"), registry(1)),
        (reference("spoke"), cluster(2)),
    ]);
    let consumers = [
        consumer("repo-server"),
        consumer("controller"),
        consumer("stranger"),
    ];
    let demand = demand(&consumers, &bindings);
    assert_eq!(demand.wanted.len(), 2);
    let slots = |pod: &str| -> Vec<&Slot> {
        demand.volumes[&PathBuf::from(format!("/pods/{pod}"))]
            .keys()
            .collect()
    };
    assert!(
        matches!(slots("repo-server")[..], [Slot::Docker(host)] if host.as_str() == "quay.test:8443")
    );
    assert!(
        matches!(slots("controller")[..], [Slot::Cluster(file)] if file.as_str() == "spoke.json")
    );
    assert!(slots("stranger").is_empty());
    assert_eq!(demand.served.len(), 2);
    assert!(demand.refused.is_empty());
}

#[test]
fn a_pod_that_no_binding_names_is_known() {
    let mut elsewhere = consumer("repo-server");
    elsewhere.namespace = "other".into();
    let consumers = [consumer("repo-server"), consumer("stranger"), elsewhere];
    let refused = change(registry(1), |it| it.delivery = Delivery::Proxy);
    let bindings = Bindings::from([
        (reference("charts"), refused),
        (reference("spoke"), cluster(2)),
    ]);
    // A binding that cannot be delivered says so itself.
    let empty = demand(&consumers, &bindings).empty;
    let shown: Vec<_> = empty
        .iter()
        .map(|it| (it.namespace.as_str(), it.service_account.as_str()))
        .collect();
    assert_eq!(shown, [("other", "repo-server"), ("argocd", "stranger")]);
    let named: Vec<_> = empty.iter().map(|it| it.consumers.clone()).collect();
    let accounts = ["controller", "repo-server", "server"].map(str::to_owned);
    assert_eq!(named, [None, Some(BTreeSet::from(accounts))]);
}

#[test]
fn another_namespace_gets_nothing() {
    let bindings = Bindings::from([(reference("charts"), registry(1))]);
    let mut elsewhere = consumer("repo-server");
    elsewhere.namespace = "other".into();
    let demand = demand(&[elsewhere], &bindings);
    assert!(demand.wanted.is_empty() && demand.served.is_empty());
}

#[test]
fn a_project_never_reaches_the_pod_wide_docker_configuration() {
    let scoped = change(registry(1), |spec| spec.project = Some("prod".into()));
    let bindings = Bindings::from([(reference("charts"), scoped)]);
    let demand = demand(&[consumer("repo-server")], &bindings);
    assert_eq!(code(&demand, "charts"), Some(Code::DeliveryNotAvailable));
    assert!(demand.wanted.is_empty());
}

#[test]
fn what_this_version_cannot_do_is_named() {
    fn with(edit: impl FnOnce(&mut ProxyDelivery)) -> Binding {
        change(proxied("prod", 1), |it| edit(it.proxy.as_mut().unwrap()))
    }
    let key = || KeyHash::of(b"key").to_hex();
    let cases: [(Binding, Code); 17] = [
        (
            change(registry(1), |it| it.delivery = Delivery::Proxy),
            Code::InvalidSecret,
        ),
        (with(|it| it.key_sha256.clear()), Code::ProxyNotWritten),
        (
            with(|it| it.key_sha256 = vec![key(), key(), key()]),
            Code::InvalidSecret,
        ),
        (
            with(|it| it.key_sha256 = vec![key().to_uppercase()]),
            Code::InvalidSecret,
        ),
        (
            with(|it| it.key_sha256.push("e3b0".into())),
            Code::InvalidSecret,
        ),
        (
            with(|it| it.upstream_proxy = Some("http://u:p@proxy.test".into())),
            Code::InvalidUrl,
        ),
        (
            change(proxied("prod", 1), |it| {
                it.target.address = "quay.test/a/../b".into()
            }),
            Code::PathRefused,
        ),
        (
            change(proxied("prod", 1), |it| {
                it.target.address = "http://x".into()
            }),
            Code::InvalidUrl,
        ),
        (
            change(proxied("prod", 1), |it| {
                it.target.kind = TargetKind::Cluster
            }),
            Code::ExchangeNotAvailable,
        ),
        (
            change(proxied("prod", 1), |it| it.exchange.username = None),
            Code::UsernameMissing,
        ),
        (
            change(proxied("prod", 1), |it| {
                it.delivery = Delivery::DockerConfig
            }),
            Code::DeliveryNotAvailable,
        ),
        (
            change(registry(1), |it| it.delivery = Delivery::Exec),
            Code::DeliveryNotAvailable,
        ),
        (
            change(registry(1), |it| it.exchange.kind = ExchangeKind::Ecr),
            Code::ServiceAccountAnnotationMissing,
        ),
        (
            change(registry(1), |it| it.exchange.kind = ExchangeKind::None),
            Code::ExchangeNotAvailable,
        ),
        (
            change(registry(1), |it| it.exchange.username = None),
            Code::UsernameMissing,
        ),
        (
            change(registry(1), |it| it.target.address = "http://x".into()),
            Code::InvalidUrl,
        ),
        (
            change(registry(1), |it| {
                it.identity.credential = CredentialKind::SpiffeCertificate
            }),
            Code::CertificateNotUsable,
        ),
    ];
    for (binding, expected) in cases {
        let shown = format!("{:?}", binding.spec);
        let demand = demand(
            &[consumer("repo-server")],
            &Bindings::from([(reference("a"), binding)]),
        );
        assert_eq!(code(&demand, "a"), Some(expected), "{shown}");
        assert!(demand.wanted.is_empty());
        assert_eq!(demand.served.len(), 1, "it is reported");
        assert!(!format!("{:?}", demand.refused).contains("u:p"));
    }
}

#[test]
fn projects_share_a_host_in_the_proxys_view_only() {
    let bindings = Bindings::from([
        (reference("global"), registry(1)),
        (reference("prod"), proxied("prod", 2)),
        (reference("dev"), proxied("dev", 3)),
    ]);
    let pod = [consumer("repo-server"), sidecar("repo-server")];
    let demand = demand(&pod, &bindings);
    assert!(demand.refused.is_empty(), "{:?}", demand.refused);
    let files = |consumer: &Consumer| -> Vec<String> {
        let slots = demand.volumes[&consumer.volume].keys();
        slots
            .map(|slot| match slot {
                Slot::Docker(host) => host.to_string(),
                Slot::Cluster(file) => file.as_str().to_owned(),
                Slot::Proxy(route) => route.file().as_str().to_owned(),
            })
            .collect()
    };
    assert_eq!(files(&pod[0]), ["quay.test:8443"]);
    assert_eq!(files(&pod[1]), ["dev.json", "prod.json"]);
    assert_eq!((demand.served.len(), demand.wanted.len()), (3, 3));

    // One credential of one project goes to one host, whatever delivers it.
    let audience = change(proxied("prod", 4), |it| {
        it.target.address = "evil.test/x".into()
    });
    let bindings = Bindings::from([
        (reference("prod"), proxied("prod", 2)),
        (reference("stolen"), audience),
    ]);
    let demand = super::demand(&pod, &bindings);
    assert_eq!(code(&demand, "stolen"), Some(Code::AudienceConflict));
}

#[test]
fn both_views_of_a_pod_share_what_is_obtained() {
    let unscoped = change(registry(2), |it| {
        it.delivery = Delivery::Proxy;
        it.proxy = proxied("prod", 1).spec.proxy;
    });
    let bindings = Bindings::from([
        (reference("charts"), registry(1)),
        (reference("git"), unscoped),
    ]);
    let pod = [consumer("repo-server"), sidecar("repo-server")];
    let demand = demand(&pod, &bindings);
    let holders: Vec<_> = demand.wanted.values().map(BTreeMap::len).collect();
    assert_eq!(holders, [2]);
}

/// A pod that started before it was given a proxy has nothing of the binding,
/// and must not report that it had.
#[test]
fn a_pod_without_the_view_is_not_served() {
    let bindings = Bindings::from([
        (reference("prod"), proxied("prod", 1)),
        (reference("spoke"), cluster(1)),
    ]);
    let demand = demand(&[consumer("repo-server"), sidecar("controller")], &bindings);
    assert!(demand.served.is_empty() && demand.wanted.is_empty());
    assert!(demand.empty.is_empty(), "both are named by a binding");
}

#[test]
fn a_pod_with_two_empty_volumes_is_told_once() {
    let pod = [consumer("stranger"), sidecar("stranger")];
    let bindings = Bindings::from([(reference("prod"), proxied("prod", 1))]);
    assert_eq!(demand(&pod, &bindings).empty.len(), 1);
}

#[test]
fn the_oldest_identity_of_a_host_wins() {
    let other = |created| {
        change(registry(created), |it| {
            it.exchange.username = Some("dev+argocd".into())
        })
    };
    let bindings = Bindings::from([
        (reference("a-newer"), other(2)),
        (reference("b-oldest"), registry(1)),
        (reference("c-same-identity"), registry(3)),
    ]);
    let demand = demand(&[consumer("repo-server")], &bindings);
    assert_eq!(code(&demand, "a-newer"), Some(Code::IdentityConflict));
    assert_eq!(demand.refused.len(), 1);
    // Those with the same identity share one exchange, each proved on its own.
    let holders: Vec<_> = demand.wanted.values().collect();
    assert_eq!((holders.len(), holders[0].len()), (1, 2));
}

#[test]
fn one_audience_goes_to_one_exchange() {
    let bindings = Bindings::from([
        (reference("first"), registry(1)),
        (
            reference("second"),
            change(registry(2), |it| it.target.address = "evil.test/x".into()),
        ),
    ]);
    let demand = demand(&[consumer("repo-server")], &bindings);
    assert_eq!(code(&demand, "second"), Some(Code::AudienceConflict));
}

proptest! {
    /// Whatever bindings say, what lands in a volume belongs to a binding of
    /// that namespace that lists the pod's service account; the proxy's view
    /// has what the proxy delivers and nothing else, and the other view has no
    /// registry credential of a project.
    #[test]
    fn nothing_is_delivered_to_whom_it_is_not_meant_for(
        rows in proptest::collection::vec(
            (0_u8..3, 0_u8..2, any::<bool>(), 0_u8..3, 0_u8..4, proptest::collection::vec(0_u8..3, 0..3)),
            0..12,
        ),
    ) {
        let accounts = ["repo-server", "controller", "server"];
        let bindings: Bindings = rows.into_iter().enumerate().map(|(n, (age, ns, scoped, kind, delivery, who))| {
            let binding = match kind {
                0 => cluster(age.into()),
                1 => registry(age.into()),
                _ => proxied("prod", age.into()),
            };
            let binding = change(binding, |it| {
                it.project = scoped.then(|| "p".to_owned());
                it.consumers = who.into_iter().map(|at| accounts[usize::from(at)].to_owned()).collect();
                match delivery {
                    0 => it.delivery = Delivery::DockerConfig,
                    1 => it.delivery = Delivery::Exec,
                    2 => it.delivery = Delivery::Proxy,
                    _ => {}
                }
            });
            let mut reference = reference(&format!("b{n}"));
            reference.namespace = ["argocd", "other"][usize::from(ns)].to_owned();
            (reference, binding)
        }).collect();
        let consumers = [accounts.map(consumer), accounts.map(sidecar)].concat();
        let demand = demand(&consumers, &bindings);
        prop_assert_eq!(demand.volumes.len(), 6);
        for consumer in &consumers {
            let slots = demand.volumes[&consumer.volume].iter();
            for (slot, (key, holder)) in slots.flat_map(|(slot, all)| all.iter().map(move |one| (slot, one))) {
                let binding = &bindings[&holder.binding];
                prop_assert_eq!(&holder.binding.namespace, &consumer.namespace);
                prop_assert_eq!(&key.namespace, &consumer.namespace);
                prop_assert_eq!(&key.project, &binding.spec.project);
                prop_assert_eq!(&holder.service_account, &consumer.service_account);
                prop_assert!(binding.spec.consumers.contains(&consumer.service_account));
                prop_assert!(demand.wanted[key].contains_key(holder));
                prop_assert_eq!(matches!(slot, Slot::Proxy(_)), consumer.view == View::Proxy);
                prop_assert_eq!(View::of(binding.spec.delivery), consumer.view);
                if matches!(slot, Slot::Docker(_)) {
                    prop_assert_eq!(&binding.spec.project, &None);
                }
            }
        }
    }
}

//! The credential proxy's view: what the files say, read as the proxy reads them.

use proptest::prelude::*;
use secrecy::ExposeSecret;
use shared::proxy_view::{self, ProxyBinding, ProxySecret};

use super::*;
use crate::demand::tests::{change, proxied};
use crate::demand::{Binding, Route};
use crate::store::Directory;

fn slot(name: &str, binding: &Binding) -> Slot {
    let spec = &binding.spec;
    let route = Route::of(name, spec, spec.proxy.as_ref().unwrap()).unwrap();
    Slot::Proxy(Box::new(route))
}

fn prod() -> Slot {
    slot("prod", &proxied("prod", 1))
}

/// A volume of the credential proxy.
struct ProxyCheck(Check);

impl ProxyCheck {
    fn new() -> Self {
        let mut check = Check::new();
        for name in Directory::MADE.map(Directory::name) {
            let _ = std::fs::remove_dir(check.folder.path().join(name));
        }
        check.volume = Self::adopt(&check, "");
        Self(check)
    }

    fn adopt(check: &Check, allowed: &str) -> Volume {
        let allowed = AllowList::parse(allowed).unwrap();
        Volume::adopt_proxy(Store::at(check.folder.path()), allowed).unwrap()
    }

    fn restart(&mut self, allowed: &str) {
        self.0.volume = Self::adopt(&self.0, allowed);
    }

    fn reconcile(&mut self, content: Option<&[Row<'_>]>, now: i64) {
        self.0.reconcile(content, now);
        for document in self.documents().values() {
            let expiry = document.credential.as_ref().map(|it| it.expires);
            assert!(
                expiry.is_none_or(|it| it > at(now)),
                "{document:?} at {now}"
            );
        }
    }

    /// Everything in the volume, as the proxy reads it.
    fn documents(&self) -> BTreeMap<String, ProxyBinding> {
        std::fs::read_dir(self.0.folder.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let bytes = std::fs::read(entry.path()).unwrap();
                let document = proxy_view::parse(&bytes).unwrap();
                (entry.file_name().into_string().unwrap(), document)
            })
            .collect()
    }

    /// The files, each with the end of its credential.
    fn shown(&self) -> Vec<(String, Option<i64>)> {
        let end = |it: ProxyBinding| Some(it.credential?.expires.as_second());
        let documents = self.documents().into_iter();
        documents.map(|(name, it)| (name, end(it))).collect()
    }
}

fn file(name: &str, end: Option<i64>) -> (String, Option<i64>) {
    (format!("{name}.json"), end)
}

#[test]
fn the_proxy_knows_a_binding_before_and_after_its_credential() {
    let mut check = ProxyCheck::new();
    let (prod, dev) = (prod(), slot("dev", &proxied("dev", 1)));
    let lease = basic(100);
    check.reconcile(Some(&[(&prod, None), (&dev, None)]), 1);
    assert_eq!(check.shown(), [file("dev", None), file("prod", None)]);
    check.reconcile(Some(&[(&prod, Some(&lease)), (&dev, None)]), 1);
    // Earlier than `exp`, later than the refresh at 75 to 80.
    assert_eq!(check.shown(), [file("dev", None), file("prod", Some(90))]);
    let document = &check.documents()["prod.json"];
    assert_eq!(document.project.as_deref(), Some("prod"));
    assert_eq!(document.target.as_str(), "quay.test:8443");
    let credential = document.credential.as_ref().unwrap();
    let Credential::Basic(basic) = &lease.credential else {
        panic!("not basic")
    };
    let ProxySecret::Basic { username, password } = &credential.secret else {
        panic!("a certificate")
    };
    assert_eq!(username.expose_secret(), basic.username);
    assert_eq!(password.expose_secret(), basic.secret.expose_secret());
    check.reconcile(Some(&[(&prod, None)]), 100);
    assert_eq!(check.shown(), [file("prod", None)]);
    check.reconcile(Some(&[]), 101);
    assert_eq!(check.shown(), []);
}

#[test]
fn the_file_follows_the_binding_without_a_new_credential() {
    let mut check = ProxyCheck::new();
    let lease = basic(100);
    let with = |edit: &dyn Fn(&mut shared::binding::ProxyDelivery)| {
        slot(
            "prod",
            &change(proxied("prod", 1), |it| edit(it.proxy.as_mut().unwrap())),
        )
    };
    let before = prod();
    check.reconcile(Some(&[(&before, Some(&lease))]), 1);
    let new_key = proxy_view::KeyHash::of(b"new");
    for (after, holds) in [
        (
            with(&|it| it.key_sha256.push(new_key.to_hex())),
            (&|it: &ProxyBinding| it.keys.get(1) == Some(&new_key))
                as &dyn Fn(&ProxyBinding) -> bool,
        ),
        (with(&|it| it.insecure = true), &|it| it.insecure),
        (
            with(&|it| it.upstream_proxy = Some("http://proxy.test:3128".into())),
            &|it| it.upstream_proxy.is_some(),
        ),
    ] {
        check.reconcile(Some(&[(&after, Some(&lease))]), 1);
        assert_eq!(check.shown(), [file("prod", Some(90))]);
        let documents = check.documents();
        assert!(holds(&documents["prod.json"]), "{documents:?}");
    }
}

#[test]
fn a_restart_keeps_the_proxys_credentials_until_they_expire() {
    let mut check = ProxyCheck::new();
    let (prod, dev) = (prod(), slot("dev", &proxied("dev", 1)));
    let (short, long) = (basic(100), basic(200));
    check.reconcile(Some(&[(&prod, Some(&short)), (&dev, Some(&long))]), 1);
    check.restart("sts.test");
    check.reconcile(None, 50);
    assert_eq!(
        check.shown(),
        [file("dev", Some(180)), file("prod", Some(90))]
    );
    assert_eq!(check.0.volume.next_expiry(), Some(at(90)));
    check.reconcile(Some(&[(&prod, None), (&dev, None)]), 60);
    assert_eq!(
        check.shown(),
        [file("dev", Some(180)), file("prod", Some(90))]
    );
    let told = &check.documents()["prod.json"].allowed_hosts;
    assert_eq!(
        told.to_string(),
        "sts.test",
        "what the administrator says now"
    );
    check.reconcile(Some(&[(&prod, None), (&dev, None)]), 90);
    assert_eq!(check.shown(), [file("dev", Some(180)), file("prod", None)]);

    // Expired before anything is known of the bindings.
    check.restart("");
    check.reconcile(None, 180);
    assert_eq!(check.shown(), [file("dev", None), file("prod", None)]);
    assert_eq!(check.0.volume.next_expiry(), None);
    check.reconcile(Some(&[]), 181);
    assert_eq!(check.shown(), [], "so does what nobody wants");
}

#[test]
fn a_successor_replaces_what_was_taken_over() {
    let mut check = ProxyCheck::new();
    let prod = prod();
    let (old, new) = (basic(100), basic(200));
    check.reconcile(Some(&[(&prod, Some(&old))]), 1);
    check.restart("");
    check.reconcile(Some(&[(&prod, Some(&new))]), 2);
    assert_eq!(check.shown(), [file("prod", Some(180))]);
    check.reconcile(Some(&[(&prod, None)]), 3);
    assert_eq!(check.shown(), [file("prod", None)], "it does not come back");
}

/// The binding was changed while no agent ran.
#[test]
fn an_old_credential_goes_to_no_other_place() {
    let prod = proxied("prod", 1);
    for other in [
        change(prod.clone(), |it| {
            it.target.address = "evil.test/prod/charts".into()
        }),
        change(prod.clone(), |it| {
            it.target.address = "quay.test:8443".into()
        }),
        change(prod.clone(), |it| it.project = Some("dev".into())),
        change(prod.clone(), |it| it.project = None),
    ] {
        let mut check = ProxyCheck::new();
        let (before, after) = (slot("prod", &prod), slot("prod", &other));
        let lease = basic(100);
        check.reconcile(Some(&[(&before, Some(&lease))]), 1);
        check.restart("");
        check.reconcile(None, 2);
        check.reconcile(Some(&[(&after, None)]), 3);
        assert_eq!(check.shown(), [file("prod", None)], "{after:?}");
    }
}

#[test]
fn what_is_no_file_of_the_view_goes() {
    let mut check = ProxyCheck::new();
    let (prod, lease) = (prod(), basic(100));
    check.reconcile(Some(&[(&prod, Some(&lease))]), 1);
    let path = |name: &str| check.0.folder.path().join(name);
    std::fs::copy(path("prod.json"), path("copy.json")).unwrap();
    std::fs::copy(path("prod.json"), path("prod")).unwrap();
    std::fs::write(path("bad.json"), "{").unwrap();
    std::fs::write(path(".new-dev.json"), "half").unwrap();
    check.restart("");
    check.reconcile(None, 2);
    assert_eq!(check.shown(), [file("prod", Some(90))]);
}

#[test]
fn what_cannot_be_replaced_goes_when_it_expires() {
    let mut check = ProxyCheck::new();
    let (prod, lease) = (prod(), basic(100));
    check.reconcile(Some(&[(&prod, Some(&lease))]), 1);
    let unwritable = self::lease(
        Credential::Basic(BasicCredential {
            username: "robot".into(),
            secret: "secret\n".into(),
        }),
        1000,
    );
    let content: Content<'_> = BTreeMap::from([(&prod, Some(&unwritable))]);
    for (now, expected) in [(50, vec![file("prod", Some(90))]), (90, vec![])] {
        let error = check
            .0
            .volume
            .reconcile(Some(&content), at(now))
            .unwrap_err();
        assert!(error.detail.contains("prod") && !error.detail.contains("secret"));
        assert_eq!(check.shown(), expected);
    }
}

#[test]
fn no_view_has_what_is_meant_for_the_other() {
    let (quay, prod) = (registry("quay.test"), prod());
    let (password, token) = (basic(100), bearer(100));
    let spoke = cluster("spoke");
    let all = [
        (&quay, Some(&password)),
        (&spoke, Some(&token)),
        (&prod, Some(&password)),
    ];
    let mut argocd = Check::new();
    argocd.reconcile(Some(&all), 1);
    assert_eq!(argocd.files(), ["quay.test", "spoke.json"]);
    assert!(!argocd.folder.path().join("prod.json").exists());
    let mut proxy = ProxyCheck::new();
    proxy.reconcile(Some(&all), 1);
    assert_eq!(proxy.shown(), [file("prod", Some(90))]);
}

proptest! {
    /// Bindings come and go, credentials are renewed or not, the agent is
    /// restarted: there is a file for each binding, and never an expired
    /// credential in one.
    #[test]
    fn no_expired_credential_is_in_the_proxys_view(
        steps in proptest::collection::vec(
            (0_i64..40, any::<bool>(), proptest::option::of(proptest::collection::vec(proptest::option::of(1_i64..120), 3))),
            1..12,
        ),
    ) {
        let slots = ["a", "b", "c"].map(|name| slot(name, &proxied(name, 1)));
        let mut check = ProxyCheck::new();
        let mut now = 0;
        for (wait, restart, content) in steps {
            now += wait;
            if restart {
                check.restart("");
            }
            // The machine holds no expired lease.
            let leases: Option<Vec<_>> = content.map(|all| {
                all.into_iter().map(|life| life.filter(|life| life * 9 / 10 > now).map(basic)).collect()
            });
            let rows: Option<Vec<Row<'_>>> = leases.as_ref().map(|leases| {
                slots.iter().zip(leases.iter().map(Option::as_ref)).collect()
            });
            check.reconcile(rows.as_deref(), now);
            if rows.is_some() {
                prop_assert_eq!(check.documents().len(), 3);
            }
        }
    }
}

#[test]
fn a_token_for_a_realm_is_written_beside_it_and_does_not_follow_to_another() {
    let of = |auth_url: &str| {
        slot(
            "prod",
            &change(proxied("prod", 1), |it| {
                it.exchange = shared::binding::Exchange {
                    auth_url: Some(auth_url.into()),
                    service: Some("registry".into()),
                    ..shared::binding::Exchange::of(shared::binding::ExchangeKind::Distribution)
                };
            }),
        )
    };
    let mut check = ProxyCheck::new();
    let mut lease = basic(100);
    lease.credential = Credential::Bearer("identity".into());
    let (before, after) = (of("https://a.test/token"), of("https://b.test/token"));
    check.reconcile(Some(&[(&before, Some(&lease))]), 1);
    let document = &check.documents()["prod.json"];
    let realm = document.realm.as_ref().unwrap();
    assert_eq!(realm.url.as_str(), "https://a.test/token");
    assert_eq!(realm.service.as_deref(), Some("registry"));
    let ProxySecret::Bearer { token } = &document.credential.as_ref().unwrap().secret else {
        panic!("not a bearer")
    };
    assert_eq!(token.expose_secret(), "identity");

    check.restart("");
    check.reconcile(Some(&[(&before, None)]), 2);
    assert_eq!(check.shown(), [file("prod", Some(90))]);
    check.restart("");
    check.reconcile(Some(&[(&after, None)]), 2);
    assert_eq!(check.shown(), [file("prod", None)]);
}

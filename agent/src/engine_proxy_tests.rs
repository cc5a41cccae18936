//! A pod with both views, in the whole engine.

use shared::proxy_view::{self, ProxyBinding};

use super::*;
use crate::demand::tests::{change, proxied, registry, sidecar};
use crate::demand::{Binding, Route};

impl Agent {
    /// Kubelet publishes both volumes of a repo-server.
    async fn publish_both(&self) {
        let (mut argocd, mut proxy) = (consumer("repo-server"), sidecar("repo-server"));
        argocd.volume = self.folder.path().to_owned();
        proxy.volume = self.proxy.path().to_owned();
        self.handle.publish(argocd).await;
        self.handle.publish(proxy).await;
    }

    fn bind_all(&self, bindings: &[(&str, Binding)]) {
        let map: Bindings = bindings
            .iter()
            .map(|(name, binding)| (reference(name), binding.clone()))
            .collect();
        self.bindings.send_replace(Some(Arc::new(map)));
    }

    /// The files of the proxy's view.
    fn proxied(&self) -> BTreeMap<String, ProxyBinding> {
        std::fs::read_dir(self.proxy.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let document = proxy_view::parse(&std::fs::read(entry.path()).unwrap());
                (entry.file_name().into_string().unwrap(), document.unwrap())
            })
            .collect()
    }
}

/// No exchange: the registries of these tests do not exist, so what is looked
/// at is who is known, and who says so.
#[tokio::test(start_paused = true)]
async fn a_pod_with_both_views_has_each_binding_in_one_of_them() {
    let mut agent = Agent::new();
    agent.set(Mode::Refuse(Code::NotAConsumer));
    let (global, prod, dev) = (registry(1), proxied("prod", 1), proxied("dev", 1));
    agent.bind_all(&[("global", global), ("prod", prod.clone()), ("dev", dev)]);
    agent.publish_both().await;
    let names = |agent: &Agent| -> Vec<String> { agent.proxied().into_keys().collect() };
    agent
        .until("the proxy's files", |agent, _| {
            names(agent) == ["dev.json", "prod.json"]
        })
        .await;
    assert!(agent.folder.path().join("docker/config.json").exists());
    assert!(!agent.folder.path().join("prod.json").exists());
    let document = &agent.proxied()["prod.json"];
    assert!(document.credential.is_none());
    assert_eq!(document.allowed_hosts, allowed());
    agent
        .until("one report for each binding", |agent, _| {
            let reports = agent.reports.borrow();
            let refused = |it| code(Some(it)) == Some("not-a-consumer");
            reports.nodes.len() == 3 && reports.nodes.values().all(refused)
        })
        .await;
    assert!(agent.reports.borrow().empty.is_empty());

    // Keys rotate, and a binding goes: nobody is asked for anything.
    let rotated = change(prod, |it| {
        let proxy = it.proxy.as_mut().unwrap();
        proxy
            .key_sha256
            .push(proxy_view::KeyHash::of(b"new").to_hex());
    });
    agent.bind_all(&[("prod", rotated)]);
    agent
        .until("the new key", |agent, _| {
            names(agent) == ["prod.json"] && agent.proxied()["prod.json"].keys.len() == 2
        })
        .await;
    agent.handle.unpublish(agent.proxy.path().to_owned()).await;
    agent
        .until("nobody is served", |agent, _| {
            agent.reports.borrow().nodes.is_empty()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_two_empty_volumes_is_reported_once() {
    let agent = Agent::new();
    agent.bindings.send_replace(Some(Arc::default()));
    agent.publish_both().await;
    assert_eq!(agent.reports.borrow().empty.len(), 1);
    agent.handle.unpublish(agent.proxy.path().to_owned()).await;
    assert_eq!(agent.reports.borrow().empty.len(), 1);
    agent.handle.unpublish(agent.folder.path().to_owned()).await;
    assert!(agent.reports.borrow().empty.is_empty());
}

/// The proxy's file of an earlier process ends on time, though nobody has
/// published the volume again and no binding is known.
#[tokio::test(start_paused = true)]
async fn the_proxys_file_of_an_earlier_process_wakes_the_engine() {
    let mut agent = Agent::new();
    let binding = proxied("prod", 1);
    let route = Route::of("prod", &binding.spec, binding.spec.proxy.as_ref().unwrap()).unwrap();
    let expires = Timestamp::from_second(START + 45).unwrap();
    let credential = proxy_view::ProxyCredential::basic_auth("robot", "secret", expires);
    let document = route.document(AllowList::default(), Some(credential));
    let bytes = proxy_view::render(&document).unwrap();
    std::fs::write(agent.proxy.path().join("prod.json"), &bytes).unwrap();
    agent.restart();
    agent
        .until("expired", |agent, _| {
            agent.proxied()["prod.json"].credential.is_none()
        })
        .await;
    let late = agent.clock.now().wall.duration_since(expires).as_secs_f64();
    assert!((0.0..0.2).contains(&late), "{late}");
    assert_eq!(std::fs::read_dir(agent.proxy.path()).unwrap().count(), 1);
}

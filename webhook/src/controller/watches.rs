//! Everything that is watched, in one stream of [`Change`]s that recovers from
//! failures.

use std::sync::Arc;

use control_plane_core::{
    bindings::world::{Change, ListEvent},
    derive::account::Annotations,
    secret::SECRET_TYPE,
};
use futures::{Stream, StreamExt, stream::BoxStream, stream::select_all};
use k8s_openapi::api::core::v1::{Node, Secret, ServiceAccount};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};

use super::{
    ControllerConfig,
    metrics::{Metrics, Watch},
    objects::{self, BindingObject, PodObject},
};

/// All watches of the controller.
pub(super) fn changes(
    client: &Client,
    config: &ControllerConfig,
    metrics: &Metrics,
) -> BoxStream<'static, Change> {
    let all = watcher::Config::default;
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let state = metrics.watch("nodes", "");
    let nodes = watch(watcher(nodes, all()), state, |node| {
        (objects::name(&node), ())
    });
    let mut streams = vec![nodes.map(Change::Node).boxed()];
    let signature = config.signature.changes();
    streams.push(signature.map(|()| Change::Keys).boxed());
    for namespace in &config.argocd_namespaces {
        let to: Arc<str> = namespace.as_str().into();
        let state = |what| metrics.watch(what, namespace);

        // By metadata: values stay with the API server.
        let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
        let ours = watcher(secrets, all().labels(SECRET_TYPE));
        let secrets = watch(ours, state("secrets"), |secret| {
            (objects::name(&secret), objects::version(&secret))
        });
        let at = Arc::clone(&to);
        streams.push(
            secrets
                .map(move |it| Change::Secret(Arc::clone(&at), it))
                .boxed(),
        );

        let accounts: Api<PartialObjectMeta<ServiceAccount>> =
            Api::namespaced(client.clone(), namespace);
        let accounts = watcher(accounts, all());
        let read = |account: PartialObjectMeta<ServiceAccount>| {
            let annotations = Annotations::read(account.metadata.annotations.as_ref());
            (objects::name(&account), annotations)
        };
        let accounts = watch(accounts, state("serviceaccounts"), read);
        let at = Arc::clone(&to);
        streams.push(
            accounts
                .map(move |it| Change::ServiceAccount(Arc::clone(&at), it))
                .boxed(),
        );

        // No selector: a pod may be a repo-server by its annotation.
        let pods: Api<PodObject> = Api::namespaced(client.clone(), namespace);
        let pods = watch(watcher(pods, all()), state("pods"), PodObject::repo_server);
        let at = Arc::clone(&to);
        streams.push(pods.map(move |it| Change::Pod(Arc::clone(&at), it)).boxed());

        let bindings: Api<BindingObject> = Api::namespaced(client.clone(), namespace);
        let read = |object: BindingObject| {
            let (name, observed) = object.observed();
            (name, Box::new(observed))
        };
        let bindings = watch(watcher(bindings, all()), state("credentialbindings"), read);
        streams.push(
            bindings
                .map(move |it| Change::Binding(Arc::clone(&to), it))
                .boxed(),
        );
    }
    select_all(streams).boxed()
}

fn watch<K, V: Send + 'static>(
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    state: Watch,
    read: impl Fn(K) -> (Arc<str>, V) + Send + 'static,
) -> BoxStream<'static, ListEvent<V>>
where
    K: Send + 'static,
{
    stream
        .default_backoff()
        .filter_map(move |event| {
            let event = match event {
                Ok(event) => {
                    state.heard();
                    Some(list_event(event, &read))
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        what = state.what(),
                        "a watch failed; it is started again"
                    );
                    state.failed();
                    None
                }
            };
            if matches!(event, Some(ListEvent::InitDone)) {
                state.synced();
            }
            futures::future::ready(event)
        })
        .boxed()
}

fn list_event<K, V>(event: Event<K>, read: impl Fn(K) -> (Arc<str>, V)) -> ListEvent<V> {
    match event {
        Event::Init => ListEvent::Init,
        Event::InitApply(object) => {
            let (name, value) = read(object);
            ListEvent::InitApply(name, value)
        }
        Event::InitDone => ListEvent::InitDone,
        Event::Apply(object) => {
            let (name, value) = read(object);
            ListEvent::Apply(name, value)
        }
        Event::Delete(object) => ListEvent::Delete(read(object).0),
    }
}

#[cfg(test)]
mod tests;

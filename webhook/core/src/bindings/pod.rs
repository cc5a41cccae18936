//! A pod as the controller sees it: labels, annotations and a few fields flow
//! in, whether it is a repo-server and has the credential proxy flows out.
//! Never fails.

use std::{collections::BTreeMap, sync::Arc};

use shared::layout::PROXY_CONTAINER;

use crate::annotations::{
    APP_COMPONENT, APP_NAME, APP_PART_OF, AppLabels, COMPONENT, Component, starts,
};

/// What there is to know of a pod.
#[derive(Debug, Clone, Default)]
pub struct PodView<'a> {
    /// Its labels.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// Its annotations.
    pub annotations: Option<&'a BTreeMap<String, String>>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its service account.
    pub service_account: &'a str,
    /// `status.phase`.
    pub phase: &'a str,
    /// Names of its init containers.
    pub init_containers: &'a [String],
    /// Its containers.
    pub containers: &'a [Program],
}

/// What a container runs, as far as the pod says it.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// The container's name.
    pub name: String,
    /// Its command and arguments.
    pub words: Vec<String>,
}

/// A pod of Argo CD's repo-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoServer {
    service_account: Arc<str>,
    is_running: bool,
    has_proxy: bool,
}

impl RepoServer {
    /// What is known of the pod if it is a repo-server.
    pub fn read(pod: &PodView<'_>) -> Option<Self> {
        let by_annotation = pod
            .annotations
            .and_then(|found| Component::from_name(found.get(COMPONENT)?));
        let label = |name| pod.labels?.get(name).map(String::as_str);
        let labels = AppLabels {
            name: label(APP_NAME),
            part_of: label(APP_PART_OF),
            component: label(APP_COMPONENT),
        };
        let by_label = || {
            Component::recognise(labels, |program| {
                pod.containers.iter().any(|container| {
                    let words = container.words.iter().map(String::as_str);
                    container.name == program || starts(program, words)
                })
            })
        };
        let is_repo_server = by_annotation.or_else(by_label) == Some(Component::RepoServer);
        is_repo_server.then(|| Self {
            service_account: pod.service_account.into(),
            is_running: pod.phase == "Running" && !pod.deleting,
            has_proxy: pod.init_containers.iter().any(|it| it == PROXY_CONTAINER),
        })
    }

    /// Its service account, if it runs without the credential proxy.
    pub fn lacks_proxy(&self) -> Option<&Arc<str>> {
        let lacks = self.is_running && !self.has_proxy;
        lacks.then_some(&self.service_account)
    }
}

//! What the stand-in was asked. Flows in: calls as they arrive and as they are answered. Flows out: counts.

use std::sync::Mutex;

use tokio::sync::watch;
use tonic::Code;

use crate::quay::lock;

/// A method of one of the two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Delegated Identity API, `FetchJWTSVIDs`.
    DelegatedJwtSvids,
    /// Delegated Identity API, `SubscribeToX509SVIDs`.
    DelegatedX509Svids,
    /// Delegated Identity API, `SubscribeToX509Bundles`.
    DelegatedX509Bundles,
    /// Delegated Identity API, `SubscribeToJWTBundles`.
    DelegatedJwtBundles,
    /// Workload API, `FetchJWTSVID`.
    WorkloadJwtSvid,
    /// Workload API, `FetchX509SVID`.
    WorkloadX509Svid,
    /// Workload API, `FetchX509Bundles`.
    WorkloadX509Bundles,
    /// Workload API, `FetchJWTBundles`.
    WorkloadJwtBundles,
}

/// An answered call; of a stream its first answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was called.
    pub method: Method,
    /// `type:value`, sorted; for the Workload API what is attested about the caller.
    pub selectors: Vec<String>,
    /// As asked.
    pub audience: Vec<String>,
    /// Whose SVIDs came back, in their order.
    pub spiffe_ids: Vec<String>,
    /// How it ended, for a stream how it began.
    pub status: Code,
}

#[derive(Default)]
pub(super) struct Journal {
    arrived: Mutex<Vec<Method>>,
    calls: Mutex<Vec<Call>>,
    news: watch::Sender<()>,
}

impl Journal {
    pub(super) fn arrive(&self, method: Method) {
        lock(&self.arrived).push(method);
        self.news.send_replace(());
    }

    pub(super) fn record(&self, call: Call) {
        lock(&self.calls).push(call);
        self.news.send_replace(());
    }

    pub(super) fn arrived(&self, method: Method) -> usize {
        let arrived = lock(&self.arrived);
        arrived.iter().filter(|it| **it == method).count()
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}

//! What a SPIRE agent knows and keeps: registration entries, its caches, and what a test has told it to do.
//!
//! Flows in: changes by the test, selectors and audiences of requests. Flows out: SVIDs, or the status that
//! SPIRE answers instead.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tonic::{Code, Status};

use super::authority::{Authority, Certificate, Jwt};
use super::journal::Method;

/// A registration entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose SVIDs it stands for.
    pub spiffe_id: String,
    /// `type:value`; a request gets the entry when it has all of these.
    pub selectors: BTreeSet<String>,
    /// Lifetime of its JWT-SVIDs.
    pub jwt_ttl: Duration,
    /// Lifetime of its X.509-SVIDs.
    pub x509_ttl: Duration,
}

impl Entry {
    /// An entry with SPIRE's default lifetimes.
    pub fn new(spiffe_id: &str, selectors: &[&str]) -> Self {
        Self {
            spiffe_id: spiffe_id.to_owned(),
            selectors: selectors.iter().copied().map(str::to_owned).collect(),
            jwt_ttl: Duration::from_secs(5 * 60),
            x509_ttl: Duration::from_secs(60 * 60),
        }
    }

    /// The entry with another lifetime of its JWT-SVIDs.
    #[must_use]
    pub fn jwt_ttl(self, jwt_ttl: Duration) -> Self {
        Self { jwt_ttl, ..self }
    }

    /// The entry with another lifetime of its X.509-SVIDs.
    #[must_use]
    pub fn x509_ttl(self, x509_ttl: Duration) -> Self {
        Self { x509_ttl, ..self }
    }
}

/// What SPIRE finds out about the caller of the Delegated Identity API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// One of `authorized_delegates`.
    Delegate,
    /// It has a registration entry, but is no delegate.
    Registered,
    /// It has no registration entry.
    Unregistered,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends in this status.
    Refuse(Code, &'static str),
    /// It is answered as usual, so much later.
    Delay(Duration),
    /// It is not answered until [`super::Spire::heal`].
    Hang,
    /// A stream stays open, and nothing comes any more.
    Silence,
}

/// Which calls a [`Fault`] hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All calls of a method.
    Method(Method),
    /// All calls whose answer would have an SVID of this SPIFFE ID.
    SpiffeId(String),
}

pub(super) struct World {
    pub(super) authority: Authority,
    pub(super) entries: Vec<Entry>,
    pub(super) caller: Caller,
    /// What is attested about the caller of the Workload API.
    pub(super) workload: BTreeSet<String>,
    pub(super) faults: Vec<(Scope, Fault)>,
    /// Whether the agent reaches the SPIRE server.
    pub(super) server_reachable: bool,
    /// The part of a JWT-SVID's life after which the agent asks for another.
    pub(super) renew_after: f64,
    /// The part of its life that a JWT-SVID has behind it when it is first handed out.
    pub(super) first_age: f64,
    jwt_cache: HashMap<(String, Vec<String>), Jwt>,
    x509_cache: HashMap<String, Certificate>,
    /// Grows with every answer, and so changes the order of the next.
    turn: usize,
}

impl World {
    pub(super) fn new(authority: Authority) -> Self {
        Self {
            authority,
            entries: Vec::new(),
            caller: Caller::Delegate,
            workload: BTreeSet::new(),
            faults: Vec::new(),
            server_reachable: true,
            renew_after: 0.5,
            first_age: 0.0,
            jwt_cache: HashMap::new(),
            x509_cache: HashMap::new(),
            turn: 0,
        }
    }

    /// Forgets every SVID, as an agent does that restarts.
    pub(super) fn forget(&mut self) {
        self.jwt_cache.clear();
        self.x509_cache.clear();
    }

    pub(super) fn fault(&self, scope: &Scope) -> Option<Fault> {
        self.faults
            .iter()
            .find(|(hit, _)| hit == scope)
            .map(|(_, fault)| *fault)
    }

    /// Whether the caller may use the Delegated Identity API.
    pub(super) fn authorize(&self) -> Result<(), Status> {
        match self.caller {
            Caller::Delegate => Ok(()),
            Caller::Registered => Err(Status::permission_denied(
                "caller not configured as an authorized delegate",
            )),
            Caller::Unregistered => Err(no_identity()),
        }
    }

    /// The entries for these selectors, each time in another order.
    pub(super) fn matching(&mut self, selectors: &BTreeSet<String>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.entries_for(selectors).cloned().collect();
        if !entries.is_empty() {
            let turn = self.turn % entries.len();
            entries.rotate_left(turn);
            self.turn += 1;
        }
        entries
    }

    /// The entries for these selectors, always in the same order: streams push what changes.
    pub(super) fn entries_for<'a>(
        &'a self,
        selectors: &'a BTreeSet<String>,
    ) -> impl Iterator<Item = &'a Entry> {
        let matches = |entry: &&Entry| entry.selectors.is_subset(selectors);
        self.entries.iter().filter(matches)
    }

    /// The JWT-SVID of an entry: the cached one up to its middle age, then another. Without the server a cached
    /// one is good until it expires.
    pub(super) fn jwt_svid(&mut self, entry: &Entry, audience: &[String]) -> Result<Jwt, Status> {
        let mut audience = audience.to_vec();
        audience.sort();
        let key = (entry.spiffe_id.clone(), audience);
        let now = self.authority.now();
        let cached = self.jwt_cache.get(&key);
        if let Some(jwt) = cached {
            let life = jwt.expires_at.saturating_sub(jwt.issued_at);
            let age = now.saturating_sub(jwt.issued_at);
            let young = (age as f64) < (life as f64) * self.renew_after;
            if young || (!self.server_reachable && now < jwt.expires_at) {
                return Ok(jwt.clone());
            }
        }
        if !self.server_reachable {
            return Err(Status::unavailable(
                "could not fetch JWT-SVID: the server is not reachable",
            ));
        }
        let age = match cached {
            Some(_) => Duration::ZERO,
            None => entry.jwt_ttl.mul_f64(self.first_age),
        };
        let jwt = self
            .authority
            .sign(&entry.spiffe_id, &key.1, entry.jwt_ttl, age)
            .map_err(|error| Status::unavailable(format!("could not fetch JWT-SVID: {error:#}")))?;
        self.jwt_cache.insert(key, jwt.clone());
        Ok(jwt)
    }

    /// The X.509-SVID of an entry: the cached one up to its middle age, then another.
    pub(super) fn x509_svid(&mut self, entry: &Entry) -> Result<Certificate, Status> {
        let now = self.authority.now();
        if let Some(certificate) = self.x509_cache.get(&entry.spiffe_id)
            && (now < certificate.middle_age() || !self.server_reachable)
        {
            return Ok(certificate.clone());
        }
        let certificate = self
            .authority
            .certify(&entry.spiffe_id, entry.x509_ttl)
            .map_err(|error| {
                Status::internal(format!("could not serialize response: {error:#}"))
            })?;
        self.x509_cache
            .insert(entry.spiffe_id.clone(), certificate.clone());
        Ok(certificate)
    }

    /// How long until one of these certificates is renewed.
    pub(super) fn until_renewal(&self, entries: &[Entry]) -> Option<Duration> {
        let renewals = entries
            .iter()
            .filter_map(|entry| self.x509_cache.get(&entry.spiffe_id))
            .map(Certificate::middle_age);
        let first = renewals.min()?.saturating_sub(self.authority.now());
        // At least a second, so that certificates that are forged to be old do not keep the agent busy.
        Some(Duration::from_secs(
            u64::try_from(first).unwrap_or(0).max(1),
        ))
    }
}

impl Certificate {
    fn middle_age(&self) -> i64 {
        self.issued_at
            .saturating_add(self.expires_at.saturating_sub(self.issued_at) / 2)
    }
}

/// SPIRE's answer both for a caller without an entry and for selectors without one.
pub(super) fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

//! What flows into the machine, and out of it.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::errors::Named;

use super::lease::{Failure, Fresh, Lease};

/// What happens to the machine.
#[derive(Debug)]
pub enum Event<K, H, C> {
    /// Everything that is wanted now, with a revision per holder: a change of
    /// the revision means that the holder's binding changed.
    Wanted(BTreeMap<K, BTreeMap<H, i64>>),
    /// An [`Attempt`] ended.
    Acquired {
        /// The attempt's key.
        key: K,
        /// The attempt's number.
        number: u64,
        /// What came of it.
        outcome: Outcome<H, C>,
    },
    /// Time passed.
    Tick,
}

/// What came of an [`Attempt`].
#[derive(Debug)]
pub struct Outcome<H, C> {
    /// For each holder whether the identity source gave the identity.
    pub proofs: BTreeMap<H, Result<(), Named>>,
    /// The new credential; `None` when none was asked for, or no holder was proved.
    pub credential: Option<Result<Fresh<C>, Failure>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<K, H> {
    /// Prove the holders and, perhaps, obtain the credential.
    Acquire(Attempt<K, H>),
    /// The holder has a new credential: [`Machine::held`].
    Deliver(H),
    /// The holder has no credential any more.
    Withdraw(H),
}

/// One attempt; it must be answered by exactly one [`Event::Acquired`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<K, H> {
    /// What to obtain.
    pub key: K,
    /// Tells this attempt from earlier ones of the same key.
    pub number: u64,
    /// Whom to prove.
    pub holders: Vec<H>,
    /// Obtain a credential too; else only prove the holders, who share one
    /// that is there already.
    pub renew: bool,
    /// When the attempt must give up: short enough that a hanging upstream
    /// cannot eat the rest of a credential's life.
    pub deadline: Duration,
}

/// How things stand for a holder.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a, C> {
    /// The credential that is delivered, if one is.
    pub held: Option<&'a Lease<C>>,
    /// Why the last attempt failed, if it did.
    pub error: Option<&'a Named>,
}

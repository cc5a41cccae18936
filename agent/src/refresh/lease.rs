//! Timing of one credential: when it is renewed, what clients are told, how
//! long an attempt may take and how long to wait after a failure. PURE: a
//! reading of the clocks flows in, instants and durations flow out.
//!
//! Two clocks are read, because neither suffices: expiry is a wall-clock time,
//! but the wall clock may be set back; the monotonic clock is not set, but
//! stands still while a machine is suspended. A credential is due, and has
//! expired, as soon as *either* clock says so.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shared::errors::{Code, Named};

/// A reading of both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// The monotonic clock, since any fixed start.
    pub mono: Duration,
}

/// A credential, fresh from its source.
#[derive(Debug, Clone)]
pub struct Fresh<C> {
    /// The credential.
    pub credential: C,
    /// Its real expiry.
    pub expires_at: Timestamp,
}

/// Why there is no credential.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The reason.
    pub error: Named,
    /// How long the upstream wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl From<Named> for Failure {
    fn from(error: Named) -> Self {
        Self {
            error,
            retry_after: None,
        }
    }
}

/// A credential and its schedule.
#[derive(Debug, Clone)]
pub struct Lease<C> {
    /// The credential.
    pub credential: C,
    /// Its real expiry.
    pub expires_at: Timestamp,
    /// What clients are told: `expires_at` at the latest, and never before the
    /// refresh is due.
    pub published_expires_at: Timestamp,
    /// When it was obtained.
    pub obtained_at: Timestamp,
    pub(super) refresh: Instant,
    pub(super) expiry: Instant,
    life: Duration,
    /// Tells it from others of the machine.
    pub(super) serial: u64,
}

/// The same instant on both clocks, as they stood when it was computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instant {
    pub(super) wall: Timestamp,
    pub(super) mono: Duration,
}

impl Instant {
    fn after(now: Now, wait: Duration) -> Self {
        let wall = SignedDuration::try_from(wait)
            .ok()
            .and_then(|wait| now.wall.checked_add(wait).ok())
            .unwrap_or(Timestamp::MAX);
        Self {
            wall,
            mono: now.mono.saturating_add(wait),
        }
    }

    pub(super) fn reached(self, now: Now) -> bool {
        now.wall >= self.wall || now.mono >= self.mono
    }
}

/// Lives from here on are renewed at half-life: a registry outage of hours
/// must fit between the first attempt and the expiry (12 h tokens of ECR).
const LONG_LIFE: Duration = Duration::from_secs(6 * 3600);
/// First wait after a failure while there is no credential to lose.
pub(super) const COLD_FIRST: Duration = Duration::from_millis(500);
/// Longest wait while there is no credential.
pub(super) const COLD_CAP: Duration = Duration::from_secs(30);
/// Longest wait before a refused holder is asked for again.
pub(super) const REFUSED_CAP: Duration = Duration::from_secs(120);
/// Longest wait of both kinds where only this node's SPIRE agent was asked: an
/// entry that somebody registers is served within seconds.
const LOCAL_CAP: Duration = Duration::from_secs(5);
/// Longest wait between retries, whatever the life.
const WARM_CAP: Duration = Duration::from_secs(300);
/// A renewed credential is used for at least this long, whatever its life.
const SHORTEST_USE: Duration = Duration::from_millis(500);
/// Bounds of one attempt's deadline.
const DEADLINE: (Duration, Duration) = (Duration::from_secs(3), LONGEST_ATTEMPT);
/// An attempt that has no credential's life to protect may take this long.
pub(super) const LONGEST_ATTEMPT: Duration = Duration::from_secs(30);

impl<C> Lease<C> {
    /// `None` when the credential has expired on arrival.
    pub(super) fn new(fresh: Fresh<C>, now: Now, jitter: f64, serial: u64) -> Option<Self> {
        let life = Duration::try_from(fresh.expires_at.duration_since(now.wall)).ok()?;
        if life.is_zero() {
            return None;
        }
        let latest = if life >= LONG_LIFE { 0.50 } else { 0.80 };
        let wait = life.mul_f64(latest - 0.05 * jitter.clamp(0.0, 1.0));
        let refresh = Instant::after(now, wait.max(SHORTEST_USE));
        Some(Self {
            credential: fresh.credential,
            expires_at: fresh.expires_at,
            published_expires_at: published(fresh.expires_at, life, refresh.wall),
            obtained_at: now.wall,
            refresh,
            // The token's own `exp` on the wall clock, not a sum that may round.
            expiry: Instant {
                wall: fresh.expires_at,
                mono: now.mono.saturating_add(life),
            },
            life,
            serial,
        })
    }

    /// When an attempt to renew it must give up.
    pub(super) fn deadline(&self) -> Duration {
        let (shortest, longest) = DEADLINE;
        self.life.mul_f64(0.02).clamp(shortest, longest)
    }

    /// The wait after a failure while it is still good: an eighth of 2 % of its
    /// life, doubled per failure, at most 2 %.
    pub(super) fn retry_after(&self, failures: u32, jitter: f64) -> Duration {
        back_off(self.cap() / 8, self.cap(), failures, jitter)
    }

    /// The longest wait while it is still good.
    pub(super) fn cap(&self) -> Duration {
        self.life.mul_f64(0.02).min(WARM_CAP)
    }

    /// Whether the credential must no longer be used.
    pub fn expired(&self, now: Now) -> bool {
        self.expiry.reached(now)
    }
}

/// The lesser of a minute and 10 % of the life before `expires_at`. What is
/// written has whole seconds, so that of a short life the next whole second
/// after the refresh is taken instead, which may be `expires_at` itself.
fn published(expires_at: Timestamp, life: Duration, refresh: Timestamp) -> Timestamp {
    let margin = life.mul_f64(0.10).min(Duration::from_secs(60));
    let early = SignedDuration::try_from(margin)
        .ok()
        .and_then(|margin| expires_at.checked_sub(margin).ok())
        .unwrap_or(expires_at);
    let whole = |second| Timestamp::from_second(second).unwrap_or(expires_at);
    let cut = whole(early.as_second());
    if cut >= refresh {
        return cut;
    }
    let next = whole(refresh.as_second() + 1);
    next.min(expires_at)
}

/// `cap`, or less where asking again costs nothing.
pub(super) fn cold_cap(cap: Duration, code: Code) -> Duration {
    match code {
        Code::IdentityNotRegistered
        | Code::SpiffeIdNotIssued
        | Code::SpireAgentAbsent
        | Code::SpireAgentNotRegistered
        | Code::SpireNotADelegate => cap.min(LOCAL_CAP),
        _ => cap,
    }
}

/// The wait after a failure while there is nothing to lose.
pub(super) fn cold_wait(cap: Duration, failures: u32, jitter: f64) -> Duration {
    back_off(COLD_FIRST, cap, failures, jitter)
}

pub(super) fn back_off(first: Duration, cap: Duration, failures: u32, jitter: f64) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled
        .min(cap)
        .mul_f64(1.0 - 0.25 * jitter.clamp(0.0, 1.0))
}

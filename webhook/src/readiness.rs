//! Whether each listener can serve: gates that its parts open and close flow
//! in, an answer for each listener flows out.
//!
//! A pod has one readiness for all of its Services, and that is admission's:
//! nothing makes up for a webhook that is not called, while an agent or a
//! verifier that is told to come back does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of all gates. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_draining: bool,
    gates: Vec<(&'static str, Result<(), String>)>,
}

impl Readiness {
    /// Adds a gate, closed. What has its name is ready when it is open.
    pub fn gate(&self, name: &'static str) -> Gate {
        let mut state = self.lock();
        state.gates.push((name, Err("not started".to_owned())));
        Gate {
            readiness: self.clone(),
            index: state.gates.len() - 1,
        }
    }

    /// From now on nothing is ready, whatever the gates say.
    pub fn drain(&self) {
        self.lock().is_draining = true;
    }

    /// Whether what has this name is ready; `None` where there is no such gate.
    pub fn check(&self, name: &str) -> Option<Result<(), String>> {
        let state = self.lock();
        let (_, gate) = state.gates.iter().find(|(known, _)| *known == name)?;
        Some(match state.is_draining {
            true => Err("draining".to_owned()),
            false => gate.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every write is a single assignment, so a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One part's say in [`Readiness`].
#[derive(Debug)]
pub struct Gate {
    readiness: Readiness,
    index: usize,
}

impl Gate {
    /// The part can serve.
    pub fn open(&self) {
        self.set(Ok(()));
    }

    /// The part cannot serve, and why; never with a secret in it.
    pub fn close(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        if let Some((_, gate)) = self.readiness.lock().gates.get_mut(self.index) {
            *gate = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gate_has_its_own_answer_until_all_drain() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.gate("a"), readiness.gate("b"));
        let closed = |reason: &str| Some(Err(reason.to_owned()));
        assert_eq!(readiness.check("a"), closed("not started"));
        a.open();
        assert_eq!(readiness.check("a"), Some(Ok(())));
        assert_eq!(readiness.check("b"), closed("not started"));
        b.open();
        a.close("lost");
        assert_eq!(readiness.check("a"), closed("lost"));
        assert_eq!(readiness.check("b"), Some(Ok(())));
        assert_eq!(readiness.check("c"), None);
        readiness.drain();
        for name in ["a", "b"] {
            assert_eq!(readiness.check(name), closed("draining"));
        }
    }
}

//! Who stands back for whom, kept up to date: claims that come, change and go
//! flow in, the names whose answer is another one now flow out. Pure.
//!
//! The answer is that of [`shared::conflicts::conflicts`] over all claims at
//! once. The work is that of the places that a change touches:
//!
//! * A claim's answer depends on older claims only, and at each place on the
//!   oldest one that *won* there. Who loses at one place holds nothing at
//!   another, so one change can free or take places elsewhere in turn.
//! * Claims to look at wait in `pending` by age. In that order each needs one
//!   look, because a look makes younger claims wait only.
//! * A place passes from one winner to the next without a look at those who
//!   share it with both.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use jiff::Timestamp;
use shared::{
    conflicts::{Holding, Place},
    errors::Named,
};

/// All claims of one namespace.
#[derive(Debug)]
pub struct Claims {
    entries: HashMap<Arc<str>, Entry>,
    /// Everybody who wants a place, those of one holding side by side.
    seats: BTreeSet<(Arc<Place>, Arc<Holding>, Age)>,
    /// Who holds a place, and as what.
    winners: BTreeMap<(Arc<Place>, Age), Arc<Holding>>,
    /// Whose answer may be another one now.
    pending: BTreeSet<Age>,
    /// Who waits in `pending` already, place by place.
    marks: HashMap<Arc<Place>, Mark>,
    /// Whether somebody has been taken from `pending` since `marks` began.
    is_settling: bool,
    ends: Ends,
}

/// The order in which claims are served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Age {
    created: Option<Timestamp>,
    name: Arc<str>,
}

#[derive(Debug)]
struct Entry {
    created: Option<Timestamp>,
    stakes: Box<[(Arc<Place>, Arc<Holding>)]>,
    lost: Option<Lost>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lost {
    place: Arc<Place>,
    winner: Arc<str>,
}

/// Everybody younger than `age` waits, but for who is there as `spared`.
#[derive(Debug)]
struct Mark {
    age: Age,
    spared: Option<Arc<Holding>>,
}

/// Before and after everything that is kept, to look for ranges.
#[derive(Debug)]
struct Ends {
    holding: Arc<Holding>,
    oldest: Age,
    youngest: Age,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            seats: BTreeSet::new(),
            winners: BTreeMap::new(),
            pending: BTreeSet::new(),
            marks: HashMap::new(),
            is_settling: false,
            ends: Ends {
                holding: Arc::new(Holding::Alone(String::new())),
                oldest: Age {
                    created: None,
                    name: "".into(),
                },
                // The API's names are ASCII.
                youngest: Age {
                    created: Some(Timestamp::MAX),
                    name: "\u{10ffff}".into(),
                },
            },
        }
    }
}

impl Claims {
    /// Says what the binding `name` needs now, by
    /// [`shared::conflicts::stakes`].
    pub fn set(
        &mut self,
        name: &Arc<str>,
        created: Option<Timestamp>,
        stakes: Vec<(Place, Holding)>,
    ) {
        if let Some(entry) = self.entries.get(name) {
            let before = entry
                .stakes
                .iter()
                .map(|(place, holding)| (&**place, &**holding));
            let after = stakes.iter().map(|(place, holding)| (place, holding));
            if entry.created == created && before.eq(after) {
                return;
            }
        }
        let lost = self.remove(name);
        let age = Age {
            created,
            name: Arc::clone(name),
        };
        let stakes = stakes.into_iter().map(|(place, holding)| {
            let (place, holding) = self.shared(place, holding);
            let seat = (Arc::clone(&place), Arc::clone(&holding), age.clone());
            self.seats.insert(seat);
            (place, holding)
        });
        let stakes = stakes.collect();
        self.pending.insert(age);
        let entry = Entry {
            created,
            stakes,
            lost,
        };
        self.entries.insert(Arc::clone(name), entry);
    }

    /// Forgets the binding `name`.
    pub fn forget(&mut self, name: &str) {
        self.remove(name);
    }

    /// Brings answers up to date, with at most `most` looks at a claim. Names
    /// go to `changed` when their answer is another one. Returns whether all
    /// answers are up to date now.
    pub fn settle(&mut self, most: usize, changed: &mut Vec<Arc<str>>) -> bool {
        for _ in 0..most {
            let Some(age) = self.pending.pop_first() else {
                break;
            };
            self.is_settling = true;
            self.look(&age, changed);
        }
        let is_settled = self.is_settled();
        if is_settled {
            self.marks = HashMap::new();
            self.is_settling = false;
        }
        is_settled
    }

    /// Whether all answers are up to date.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Why the binding `name` stands back, if it does.
    pub fn conflict(&self, name: &str) -> Option<Named> {
        let lost = self.entries.get(name)?.lost.as_ref()?;
        Some(lost.place.conflict(&lost.winner))
    }

    fn remove(&mut self, name: &str) -> Option<Lost> {
        if std::mem::take(&mut self.is_settling) {
            // The order begins anew: who has been looked at may have to wait
            // again.
            self.marks.clear();
        }
        let (name, entry) = self.entries.remove_entry(name)?;
        let age = Age {
            created: entry.created,
            name,
        };
        self.pending.remove(&age);
        for (place, holding) in &entry.stakes {
            let seat = (Arc::clone(place), Arc::clone(holding), age.clone());
            self.seats.remove(&seat);
            if self.winners.remove(&(seat.0, seat.2)).is_some() {
                self.passed(place, holding, &age);
            }
        }
        entry.lost
    }

    fn look(&mut self, age: &Age, changed: &mut Vec<Arc<str>>) {
        let Some(entry) = self.entries.get(&age.name) else {
            return;
        };
        let lost = entry.stakes.iter().find_map(|(place, holding)| {
            let (winner, held) = self.winner(place)?;
            (winner < age && held != holding).then(|| Lost {
                place: Arc::clone(place),
                winner: Arc::clone(&winner.name),
            })
        });
        let wins = lost.is_none();
        let stakes = entry.stakes.clone();
        if let Some(entry) = self.entries.get_mut(&age.name).filter(|it| it.lost != lost) {
            entry.lost = lost;
            changed.push(Arc::clone(&age.name));
        }
        for (place, holding) in &stakes {
            let seat = (Arc::clone(place), age.clone());
            let won = self.winners.contains_key(&seat);
            if won == wins {
                continue;
            }
            if won {
                self.winners.remove(&seat);
            }
            self.passed(place, holding, age);
            if wins {
                self.winners.insert(seat, Arc::clone(holding));
            }
        }
    }

    /// Whoever is younger than `age` and sees a difference at `place` waits for
    /// a look: `age` begins to hold it, or has ceased to, and `winners` is
    /// without it.
    fn passed(&mut self, place: &Arc<Place>, holding: &Arc<Holding>, age: &Age) {
        let other = self.winner(place);
        if other.is_some_and(|(winner, _)| winner < age) {
            // That one is in the way of all younger ones before and after.
            return;
        }
        // Who shares the place with both sees no difference.
        let is_shared = other.is_none_or(|(_, held)| held == holding);
        let mut spared = is_shared.then(|| Arc::clone(holding));
        if let Some(mark) = self.marks.get(place).filter(|mark| mark.age <= *age) {
            if mark.spared.is_none() || mark.spared == spared {
                return;
            }
            // Not back and forth between two of them.
            spared = None;
        }
        let waiting = self.younger(place, spared.as_ref(), age);
        self.pending.extend(waiting);
        let mark = Mark {
            age: age.clone(),
            spared,
        };
        self.marks.insert(Arc::clone(place), mark);
    }

    /// Who wants `place` and is younger than `age`, but for who is `spared`.
    fn younger(&self, place: &Arc<Place>, spared: Option<&Arc<Holding>>, age: &Age) -> Vec<Age> {
        let mut found = Vec::new();
        let (first, oldest) = (Arc::clone(&self.ends.holding), self.ends.oldest.clone());
        let mut from = Included((Arc::clone(place), first, oldest));
        while let Some((at, group, _)) = self.seats.range((from, Unbounded)).next() {
            if at != place {
                break;
            }
            if Some(group) != spared {
                let from = Excluded((Arc::clone(place), Arc::clone(group), age.clone()));
                let seats = self.seats.range((from, Unbounded));
                let group = seats.take_while(|(at, as_, _)| at == place && as_ == group);
                found.extend(group.map(|(_, _, age)| age.clone()));
            }
            let youngest = self.ends.youngest.clone();
            from = Excluded((Arc::clone(place), Arc::clone(group), youngest));
        }
        found
    }

    /// The oldest claim that holds the place.
    fn winner(&self, place: &Arc<Place>) -> Option<(&Age, &Arc<Holding>)> {
        let from = (Arc::clone(place), self.ends.oldest.clone());
        let ((at, age), holding) = self.winners.range(from..).next()?;
        (at == place).then_some((age, holding))
    }

    /// One copy for all who want the same.
    fn shared(&self, place: Place, holding: Holding) -> (Arc<Place>, Arc<Holding>) {
        let (mut place, mut holding) = (Arc::new(place), Arc::new(holding));
        let oldest = self.ends.oldest.clone();
        let from = (Arc::clone(&place), Arc::clone(&holding), oldest.clone());
        let found = self.seats.range(from..).next();
        if let Some((_, known, _)) = found.filter(|it| (&it.0, &it.1) == (&place, &holding)) {
            holding = Arc::clone(known);
        }
        let from = (Arc::clone(&place), Arc::clone(&self.ends.holding), oldest);
        let found = self.seats.range(from..).next();
        if let Some((known, ..)) = found.filter(|it| it.0 == place) {
            place = Arc::clone(known);
        }
        (place, holding)
    }
}

#[cfg(test)]
mod tests;

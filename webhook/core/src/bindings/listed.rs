//! The objects of one watch: events of a list that is kept up to date flow in,
//! what each did to one object flows out. Pure.

use std::{collections::BTreeMap, sync::Arc};

/// An event of a watch. A list starts with `Init`, and what it has not brought
/// until `InitDone` is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum ListEvent<V> {
    /// A list begins.
    Init,
    /// The list has this object.
    InitApply(Arc<str>, V),
    /// The list is whole.
    InitDone,
    /// The object is there, or is another one now.
    Apply(Arc<str>, V),
    /// The object is gone.
    Delete(Arc<str>),
}

impl<V> ListEvent<V> {
    /// Changes what the event carries.
    pub fn map<W>(self, with: impl FnOnce(V) -> W) -> ListEvent<W> {
        match self {
            Self::Init => ListEvent::Init,
            Self::InitApply(name, value) => ListEvent::InitApply(name, with(value)),
            Self::InitDone => ListEvent::InitDone,
            Self::Apply(name, value) => ListEvent::Apply(name, with(value)),
            Self::Delete(name) => ListEvent::Delete(name),
        }
    }
}

/// The objects of one watch, by name.
///
/// What a list brings is taken in at once, so that no long computation waits
/// for its end.
#[derive(Debug)]
pub(super) struct Listed<V> {
    current: BTreeMap<Arc<str>, (V, u32)>,
    /// Which list is the last one; objects carry the one that had them.
    list: u32,
    is_synced: bool,
}

impl<V> Default for Listed<V> {
    fn default() -> Self {
        Self {
            current: BTreeMap::new(),
            list: 0,
            is_synced: false,
        }
    }
}

/// What an event did to one object.
#[derive(Debug)]
pub(super) struct Delta<V> {
    pub(super) name: Arc<str>,
    pub(super) before: Option<V>,
    pub(super) after: Option<V>,
}

impl<V: Clone> Listed<V> {
    /// Takes in an event.
    pub(super) fn apply(&mut self, event: ListEvent<V>) -> Vec<Delta<V>> {
        match event {
            ListEvent::Init => {
                self.list = self.list.wrapping_add(1);
                Vec::new()
            }
            ListEvent::InitApply(name, value) | ListEvent::Apply(name, value) => {
                vec![self.insert(name, value)]
            }
            ListEvent::InitDone => {
                self.is_synced = true;
                let list = self.list;
                let gone = self.current.extract_if(.., |_, (_, seen)| *seen != list);
                let gone = gone.map(|(name, (value, _))| Delta {
                    name,
                    before: Some(value),
                    after: None,
                });
                gone.collect()
            }
            ListEvent::Delete(name) => {
                let before = self.current.remove(&name).map(|(value, _)| value);
                vec![Delta {
                    name,
                    before,
                    after: None,
                }]
            }
        }
    }

    fn insert(&mut self, name: Arc<str>, value: V) -> Delta<V> {
        let list = self.list;
        let entry = self.current.entry(name);
        let name = Arc::clone(entry.key());
        let mut before = None;
        entry
            .and_modify(|known| {
                before = Some(std::mem::replace(known, (value.clone(), list)).0);
            })
            .or_insert_with(|| (value.clone(), list));
        Delta {
            name,
            before,
            after: Some(value),
        }
    }

    /// Whether there was a whole list.
    pub(super) fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub(super) fn value(&self, name: &str) -> Option<&V> {
        self.current.get(name).map(|(value, _)| value)
    }

    /// The one copy of a name, if an object has it.
    pub(super) fn shared_name(&self, name: &str) -> Option<&Arc<str>> {
        self.current.get_key_value(name).map(|(name, _)| name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.current.iter().map(|(name, (value, _))| (name, value))
    }

    pub(super) fn len(&self) -> usize {
        self.current.len()
    }
}

//! Builds RFC 6902 patches: places and values flow in, operations flow out.
//!
//! This is the only module that knows JSON pointers. A [`Slot`] says where a
//! map or a list is and how much of the way to it exists, so that missing
//! parents come with the first value in one operation, and nothing that is
//! already there is written again.

use std::borrow::Cow;

use json_patch::{
    AddOperation, PatchOperation, RemoveOperation, ReplaceOperation,
    jsonptr::{PointerBuf, Token},
};
use serde::Serialize;
use serde_json::{Map, Value};

/// A map or a list inside the object under admission.
#[derive(Debug, Clone)]
pub struct Slot {
    present: PointerBuf,
    missing: Vec<String>,
}

impl Slot {
    /// The object itself.
    pub fn root() -> Self {
        Self {
            present: PointerBuf::root(),
            missing: Vec::new(),
        }
    }

    /// The member `name`; `exists` tells whether the object has it with a
    /// value other than `null`. Below a missing member everything is missing.
    #[must_use]
    pub fn member(mut self, name: &str, exists: bool) -> Self {
        if exists && self.missing.is_empty() {
            self.present.push_back(name);
        } else {
            self.missing.push(name.to_owned());
        }
        self
    }

    /// The element `index` of a list, which has to exist.
    #[must_use]
    pub fn element(mut self, index: usize) -> Self {
        self.present.push_back(index);
        self
    }

    /// Where an operation has to begin for `value` to be at this place, and
    /// `value` wrapped in what is missing below.
    fn wrap(&self, value: Value) -> AddOperation {
        let Some((first, rest)) = self.missing.split_first() else {
            let path = self.present.clone();
            return AddOperation { path, value };
        };
        let value = rest.iter().rev().fold(value, |inner, name| {
            Value::Object(Map::from_iter([(name.clone(), inner)]))
        });
        let path = self.below(first.as_str());
        AddOperation { path, value }
    }

    fn below<'t>(&self, token: impl Into<Token<'t>>) -> PointerBuf {
        self.present.with_trailing_token(token)
    }
}

/// Operations in the order in which they apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Patch(json_patch::Patch);

impl Patch {
    /// A patch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// The operations, in the order in which they apply.
    pub fn operations(&self) -> &json_patch::Patch {
        &self.0
    }

    /// Sets entries of the map at `slot`, whether or not it has them.
    pub fn set<'k, K, I>(&mut self, slot: &Slot, entries: I)
    where
        K: Into<Cow<'k, str>>,
        I: IntoIterator<Item = (K, Value)>,
    {
        let mut entries = entries
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .peekable();
        if entries.peek().is_none() {
            return;
        }
        if slot.missing.is_empty() {
            self.0.0.extend(entries.map(|(key, value)| {
                PatchOperation::Add(AddOperation {
                    path: slot.below(key.as_ref()),
                    value,
                })
            }));
        } else {
            let map = entries
                .map(|(key, value)| (key.into_owned(), value))
                .collect();
            self.make(slot.wrap(Value::Object(map)));
        }
    }

    /// Appends to the list at `slot`.
    pub fn append(&mut self, slot: &Slot, items: Vec<Value>) {
        if items.is_empty() {
            return;
        }
        if slot.missing.is_empty() {
            self.0.0.extend(items.into_iter().map(|value| {
                PatchOperation::Add(AddOperation {
                    path: slot.below("-"),
                    value,
                })
            }));
        } else {
            self.make(slot.wrap(Value::Array(items)));
        }
    }

    /// Makes a map or list that is missing. If an earlier operation makes it,
    /// the two become one: the second would undo the first.
    fn make(&mut self, add: AddOperation) {
        let earlier = self.0.0.iter_mut().find_map(|operation| match operation {
            PatchOperation::Add(earlier) if earlier.path == add.path => Some(earlier),
            _ => None,
        });
        match earlier {
            Some(earlier) => merge(&mut earlier.value, add.value),
            None => self.0.0.push(PatchOperation::Add(add)),
        }
    }

    /// Replaces an entry that the map at `slot` has.
    pub fn replace(&mut self, slot: &Slot, key: &str, value: Value) {
        self.0.0.push(PatchOperation::Replace(ReplaceOperation {
            path: slot.below(key),
            value,
        }));
    }

    /// Removes an entry that the map at `slot` has.
    pub fn remove(&mut self, slot: &Slot, key: &str) {
        self.0.0.push(PatchOperation::Remove(RemoveOperation {
            path: slot.below(key),
        }));
    }
}

fn merge(into: &mut Value, value: Value) {
    match (into, value) {
        (Value::Object(into), Value::Object(map)) => {
            for (key, value) in map {
                match into.get_mut(&key) {
                    Some(into) => merge(into, value),
                    None => {
                        into.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(into), Value::Array(list)) => into.extend(list),
        (into, value) => *into = value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(patch: &Patch, mut before: Value, after: Value, operations: Value) {
        assert_eq!(serde_json::to_value(patch).unwrap(), operations);
        json_patch::patch(&mut before, patch.operations()).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn keys_are_escaped() {
        let mut patch = Patch::new();
        let annotations = Slot::root()
            .member("metadata", true)
            .member("annotations", true);
        patch.set(&annotations, [("a.dev/b~c", json!("1"))]);
        check(
            &patch,
            json!({"metadata": {"annotations": {"x": "y"}}}),
            json!({"metadata": {"annotations": {"x": "y", "a.dev/b~c": "1"}}}),
            json!([{"op": "add", "path": "/metadata/annotations/a.dev~1b~0c", "value": "1"}]),
        );
    }

    #[test]
    fn missing_parents_come_with_the_value() {
        let mut patch = Patch::new();
        let slot = Slot::root()
            .member("spec", true)
            .member("template", false)
            .member("metadata", true)
            .member("labels", false);
        patch.set(&slot, [("a", json!("1")), ("b", json!("2"))]);
        check(
            &patch,
            json!({"spec": {"x": 1}}),
            json!({"spec": {"x": 1, "template": {"metadata": {"labels": {"a": "1", "b": "2"}}}}}),
            json!([{"op": "add", "path": "/spec/template",
                    "value": {"metadata": {"labels": {"a": "1", "b": "2"}}}}]),
        );
    }

    #[test]
    fn lists_are_appended_to_or_made() {
        let containers = Slot::root().member("containers", true);
        let mut patch = Patch::new();
        patch.append(
            &containers.clone().element(0).member("env", true),
            vec![json!(2), json!(3)],
        );
        patch.append(
            &containers.clone().element(1).member("env", false),
            vec![json!(4), json!(5)],
        );
        check(
            &patch,
            json!({"containers": [{"env": [1]}, {"env": null}]}),
            json!({"containers": [{"env": [1, 2, 3]}, {"env": [4, 5]}]}),
            json!([
                {"op": "add", "path": "/containers/0/env/-", "value": 2},
                {"op": "add", "path": "/containers/0/env/-", "value": 3},
                {"op": "add", "path": "/containers/1/env", "value": [4, 5]},
            ]),
        );
    }

    #[test]
    fn what_is_missing_is_made_once() {
        let mut patch = Patch::new();
        let spec = Slot::root().member("spec", false);
        patch.set(&spec.clone().member("a", false), [("x", json!(1))]);
        patch.set(&spec.clone().member("b", false), [("x", json!(2))]);
        patch.append(&spec.clone().member("c", false), vec![json!(3)]);
        patch.append(&spec.clone().member("c", false), vec![json!(4)]);
        let made = json!({"a": {"x": 1}, "b": {"x": 2}, "c": [3, 4]});
        check(
            &patch,
            json!({}),
            json!({"spec": made}),
            json!([{"op": "add", "path": "/spec", "value": made}]),
        );
    }

    #[test]
    fn nothing_to_write_is_no_operation() {
        let mut patch = Patch::new();
        patch.append(&Slot::root().member("env", false), Vec::new());
        patch.set(
            &Slot::root().member("labels", false),
            [] as [(&str, Value); 0],
        );
        assert!(patch.is_empty());
    }

    #[test]
    fn entries_are_replaced_and_removed() {
        let mut patch = Patch::new();
        let data = Slot::root().member("data", true);
        patch.replace(&data, "url", json!("new"));
        patch.remove(&data, "a/b");
        check(
            &patch,
            json!({"data": {"url": "old", "a/b": 1}}),
            json!({"data": {"url": "new"}}),
            json!([
                {"op": "replace", "path": "/data/url", "value": "new"},
                {"op": "remove", "path": "/data/a~1b"},
            ]),
        );
    }
}

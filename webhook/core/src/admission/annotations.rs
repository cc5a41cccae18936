//! A view of a metadata map's annotations that keeps only ours.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::review::Text;

/// Prefix of every annotation of ours.
const PREFIX: &str = "workload-identity.dev/";

/// The annotations with our prefix. Others are skipped: kubectl's
/// last-applied-configuration alone can be as large as the object.
#[derive(Debug, Default)]
pub(super) struct OurAnnotations<'a>(Vec<(Text<'a>, Text<'a>)>);

impl OurAnnotations<'_> {
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key.as_str() == name)
            .map(|(_, value)| value.as_str())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for OurAnnotations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ours;

        impl<'de> Visitor<'de> for Ours {
            type Value = Vec<(Text<'de>, Text<'de>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut ours = Vec::new();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    if key.starts_with(PREFIX) {
                        ours.push((key, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(ours)
            }
        }

        deserializer.deserialize_map(Ours).map(Self)
    }
}

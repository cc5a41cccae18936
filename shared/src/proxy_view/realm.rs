//! The token realm in a file of the view.

use serde::{Deserialize, Serialize};
use url::Url;

use super::unreadable;
use crate::errors::{Code, Named};

/// A token realm that a Secret names, in place of the one that the registry
/// announces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Realm {
    /// An https URL without user information.
    pub url: Url,
    /// The `service` that it is asked for, if not the one that the registry
    /// announces.
    pub service: Option<String>,
}

impl Realm {
    /// Reads the URL of a realm.
    ///
    /// # Errors
    /// [`Code::InvalidUrl`], with what is wrong.
    pub fn parse(url: &str, service: Option<String>) -> Result<Self, Named> {
        let refuse = |reason: &str| Named::new(Code::InvalidUrl, reason);
        let url = Url::parse(url).map_err(|error| refuse(&error.to_string()))?;
        if url.scheme() != "https" {
            return Err(refuse("the scheme is not https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("has user information"));
        }
        Ok(Self { url, service })
    }
}

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Written {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
}

impl Written {
    pub(super) fn read(self) -> Result<Realm, Named> {
        Realm::parse(&self.url, self.service)
            .map_err(|error| unreadable(&format!("realm.url: {}", error.detail)))
    }
}

impl From<&Realm> for Written {
    fn from(realm: &Realm) -> Self {
        Self {
            url: realm.url.to_string(),
            service: realm.service.clone(),
        }
    }
}

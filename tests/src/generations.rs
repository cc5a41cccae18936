//! Credential files whose integrity a reader can judge: a generation flows in, real documents flow out,
//! and back.
//!
//! Each holds one token, a JWT whose claims say its generation, and the generation decides about every
//! other byte. So a document that is cut short, or made of two, is none of any generation.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use agent::docker_config::{self, BasicCredential};
use agent::store::{Directory, FileName, Store};
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::exec_credential::ExecCredential;
use shared::layout;
use shared::registry::RegistryHost;

const USER: &str = "prod+argocd";
const REGISTRY: &str = "quay.example.test";
const CLUSTER: &str = "spoke";
/// In the year 2100.
const EXPIRES_AT: i64 = 4_102_444_800;
/// The last part of a token is a multiple of this long, in bytes.
const UNIT: usize = 48;
/// Up to this many times: several pages, and several calls of `write`.
const LONGEST: u64 = 800;
/// Bytes in base64 that have the head of a token with its user.
const HEAD: usize = 160;

/// When something was written: in which life of the writer, and which of its rounds. Later ones are greater.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation {
    /// Counts the writer's processes.
    pub life: u32,
    /// Counts what one process writes.
    pub round: u32,
}

/// The two files, of which the Docker configuration is always written first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The Docker configuration.
    Docker,
    /// The ExecCredential of a cluster.
    Cluster,
}

impl Kind {
    /// Both, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Cluster];

    /// Its folder in the volume.
    #[must_use]
    pub fn directory(self) -> Directory {
        match self {
            Self::Docker => Directory::Docker,
            Self::Cluster => Directory::Clusters,
        }
    }

    /// Its file name.
    ///
    /// # Errors
    /// None in practice.
    pub fn file_name(self) -> Result<FileName> {
        Ok(match self {
            Self::Docker => FileName::of(layout::DOCKER_CONFIG)?,
            Self::Cluster => FileName::of(layout::cluster_file(CLUSTER)?)?,
        })
    }

    /// The whole document. Only its head goes through encoders: a debug build takes milliseconds for a long
    /// one, which is far more than the writing that is to be interrupted.
    fn render(self, generation: Generation) -> Result<String> {
        let (head, filler) = token(generation, self)?;
        match self {
            Self::Docker => {
                // Without a remainder the encoding of the rest can simply follow.
                let pad = "_".repeat((3 - (USER.len() + 1 + head.len()) % 3) % 3);
                let login = BasicCredential {
                    username: format!("{USER}{pad}"),
                    secret: head.as_str().into(),
                };
                let encoded = STANDARD.encode(format!("{}:{head}", login.username));
                let logins = BTreeMap::from([(RegistryHost::parse(REGISTRY)?, login)]);
                let times = filler.len() / UNIT;
                let filler = STANDARD
                    .encode(&filler[..UNIT.min(filler.len())])
                    .repeat(times);
                insert(&docker_config::render(&logins)?, &encoded, &filler)
            }
            Self::Cluster => {
                let expires_at = Timestamp::from_second(EXPIRES_AT)?;
                let document = ExecCredential::new(head.as_str().into(), expires_at);
                insert(&document.render()?, &head, &filler)
            }
        }
    }

    /// The generation of a file's content.
    ///
    /// # Errors
    /// When it is not the whole of one document, byte for byte.
    pub fn judge(self, content: &[u8]) -> Result<Generation> {
        let text = std::str::from_utf8(content)?;
        let (_, value) = text
            .split_once(match self {
                Self::Docker => "\"auth\":\"",
                Self::Cluster => "\"token\":\"",
            })
            .context("there is no token")?;
        let generation = match self {
            Self::Docker => {
                let start = value.get(..HEAD).context("the head is cut off")?;
                generation(&String::from_utf8(STANDARD.decode(start)?)?)
            }
            Self::Cluster => generation(value),
        }?;
        let whole = self.render(generation)?;
        ensure!(
            whole == text,
            "{generation:?} has {} bytes, these are {}",
            whole.len(),
            text.len()
        );
        Ok(generation)
    }
}

/// Writes both files.
///
/// # Errors
/// As [`Store::put`].
pub fn write(store: &Store, generation: Generation) -> Result<()> {
    for kind in Kind::ALL {
        let name = kind.file_name()?;
        let content = kind.render(generation)?;
        store.put(kind.directory(), &name, content.as_bytes())?;
    }
    Ok(())
}

/// How many files lie beside the one of this kind: those that are being written, or were, by a process
/// that was killed.
///
/// # Errors
/// When the folder cannot be listed.
pub fn temporaries(volume: &Path, kind: Kind) -> Result<u32> {
    let folder = volume.join(kind.directory().name());
    let mut found = 0;
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        found += u32::from(FileName::of(entry?.file_name()).is_err());
    }
    Ok(found)
}

/// A number that looks random and is the same for the same `seed` (SplitMix64).
#[must_use]
pub fn scatter(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[derive(Serialize, Deserialize)]
struct Claims {
    exp: i64,
    generation: Generation,
}

/// Two parts with their dots, and the third.
fn token(generation: Generation, kind: Kind) -> Result<(String, String)> {
    let Generation { life, round } = generation;
    let seed = (u64::from(life) << 32 | u64::from(round)) * 2 + kind as u64;
    let times = usize::try_from(1 + scatter(seed) % LONGEST)?;
    let filler = format!("{life:024x}{round:024x}").repeat(times);
    let claims = serde_json::to_vec(&Claims {
        exp: EXPIRES_AT,
        generation,
    })?;
    let head = format!("{}.{}.", BASE64.encode("{}"), BASE64.encode(claims));
    Ok((head, filler))
}

/// What the claims of a token say, of which there is at least the head.
fn generation(token: &str) -> Result<Generation> {
    let claims = token.split('.').nth(1).context("there are no claims")?;
    let claims: Claims = serde_json::from_slice(&BASE64.decode(claims)?)?;
    Ok(claims.generation)
}

fn insert(document: &[u8], after: &str, more: &str) -> Result<String> {
    let mut text = std::str::from_utf8(document)?.to_owned();
    let at = text
        .find(after)
        .context("the head is not in the document")?;
    text.insert_str(at + after.len(), more);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn the_documents_are_those_of_the_product() {
        for round in 0..100 {
            let generation = Generation { life: 1, round };
            let whole = |kind| token(generation, kind).unwrap();
            let docker = Kind::Docker.render(generation).unwrap();
            let logins = docker_config::parse(docker.as_bytes()).unwrap();
            let (head, filler) = whole(Kind::Docker);
            let secret = logins[REGISTRY].secret.expose_secret();
            assert_eq!(*secret, format!("{head}{filler}"));
            let cluster = Kind::Cluster.render(generation).unwrap();
            let document = ExecCredential::parse(cluster.as_bytes()).unwrap();
            let (head, filler) = whole(Kind::Cluster);
            let secret = document.status.token.expose_secret();
            assert_eq!(*secret, format!("{head}{filler}"));
        }
    }

    #[test]
    fn a_part_of_a_document_or_a_mix_of_two_is_noticed() {
        let rendered = |kind: Kind, round| kind.render(Generation { life: 7, round }).unwrap();
        for kind in Kind::ALL {
            let mut long = (0..)
                .map(|round| (round, rendered(kind, round).into_bytes()))
                .filter(|(_, content)| content.len() > 10_000);
            let ((round, one), (_, other)) = (long.next().unwrap(), long.next().unwrap());
            assert_eq!(kind.judge(&one).unwrap().round, round);
            for cut in [0, 1, 40, 100, 200, 8192, one.len() - 1] {
                assert!(kind.judge(&one[..cut]).is_err(), "{kind:?} cut at {cut}");
                let mixed = [&one[..cut], &other[cut.min(other.len())..]].concat();
                let is_one = kind.judge(&mixed).is_ok() && mixed != other;
                assert!(!is_one, "{kind:?} mixed at {cut}");
            }
        }
    }
}

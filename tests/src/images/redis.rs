//! Debian's Redis under the name of the image that Argo CD's manifest wants.

use anyhow::{Context as _, Result};

use super::{Image, argocd};
use crate::packages::{REDIS_PROGRAM, find};
use crate::peers::Peers;

/// Redis as install.yaml names it. The official image's entrypoint is a script that puts
/// `redis-server` before arguments that begin with a dash, which are all that install.yaml has: here
/// the entrypoint is that program.
///
/// # Errors
/// When the manifest names no such image, or Redis is not installed.
pub fn image(peers: &Peers) -> Result<Image> {
    let mut image = Image::new(argocd::reference(peers, "/redis")?);
    let program = find(REDIS_PROGRAM).context("Debian's redis-tools is not installed")?;
    // One file that acts by the name that it is called.
    image.program("/usr/local/bin/redis-server", &program)?;
    image.link("/usr/local/bin/redis-check-rdb", "redis-server");
    let client = find("redis-cli").context("Debian's redis-tools is not installed")?;
    image.program("/usr/local/bin/redis-cli", &client)?;
    image.users(&[("root", 0, "/root"), ("redis", 999, "/data")]);
    image.owned_folder("/data", 0o755, 999, 999);
    image.config.entrypoint = vec!["redis-server".to_owned()];
    image.config.folder = "/data".to_owned();
    Ok(image)
}

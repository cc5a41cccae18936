//! A thread that reads credential files again and again, as fast as a consumer
//! could ever look, and judges every version of them: files flow in, the first
//! fault or what was seen flows out.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use jiff::Timestamp;

use super::files;

/// Between two rounds: the machine's other processes need their share.
const PAUSE: Duration = Duration::from_micros(500);
/// How late the agent may be when a credential is not renewed and has to go.
const REMOVAL: Duration = Duration::from_secs(3);

/// A file, and what has to be in it.
#[derive(Debug, Clone)]
pub(crate) enum Watched {
    /// A Docker configuration with a login at that host.
    Docker(PathBuf, String),
    /// An ExecCredential.
    Cluster(PathBuf),
}

/// What was seen without a fault.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Files that were read whole.
    pub(crate) reads: u64,
    /// For each file how many credentials it had, one after the other.
    pub(crate) credentials: Vec<usize>,
    /// All of them.
    pub(crate) tokens: BTreeSet<String>,
}

/// The thread. It ends when this is dropped.
pub(crate) struct Reader {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Reader {
    /// Begins to read. Every file has to be there already, and has to stay.
    pub(crate) fn start(files: impl IntoIterator<Item = Watched>) -> Result<Self> {
        let mut files = files
            .into_iter()
            .map(Followed::new)
            .collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen {
            credentials: vec![0; files.len()],
            ..Seen::default()
        }));
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for (index, file) in files.iter_mut().enumerate() {
                        let new = file
                            .look()
                            .with_context(|| format!("{:?} at {}", file.what, Timestamp::now()))?;
                        let mut seen = lock(&seen);
                        seen.reads += 1;
                        if let Some(token) = new {
                            seen.credentials[index] += 1;
                            seen.tokens.insert(token);
                        }
                    }
                    std::thread::sleep(PAUSE);
                }
                Ok(())
            })
        };
        Ok(Self {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// How many credentials the file had that had fewest.
    ///
    /// # Errors
    /// With the first fault that was seen.
    pub(crate) fn credentials(&mut self) -> Result<usize> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            self.join()?;
            bail!("the reader has ended");
        }
        let seen = lock(&self.seen);
        Ok(seen.credentials.iter().copied().min().unwrap_or_default())
    }

    /// Ends it.
    ///
    /// # Errors
    /// With the first fault that was seen.
    pub(crate) fn finish(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()?;
        Ok(std::mem::take(&mut lock(&self.seen)))
    }

    fn join(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_panic)) => Err(anyhow!("the reader panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Followed {
    what: Watched,
    path: PathBuf,
    folder: PathBuf,
    /// The folder's inode, which `subPath` mounts pin.
    inode: u64,
    version: Option<Version>,
}

/// One content of a file, and the descriptor that it was read from.
struct Version {
    file: File,
    content: Vec<u8>,
    token: String,
    /// Of the file's own credential, and of all that are in it.
    expires_at: (Timestamp, Timestamp),
}

impl Followed {
    fn new(what: Watched) -> Result<Self> {
        let (Watched::Docker(path, _) | Watched::Cluster(path)) = &what;
        let path = path.clone();
        let folder = path.parent().context("a file without a folder")?.to_owned();
        let inode = fs::metadata(&folder).context("look at the folder")?.ino();
        Ok(Self {
            what,
            path,
            folder,
            inode,
            version: None,
        })
    }

    /// Reads the file once; its credential, when that is another one than before.
    fn look(&mut self) -> Result<Option<String>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("it is gone"),
            opened => opened.context("open it")?,
        };
        let mut content = Vec::new();
        file.read_to_end(&mut content).context("read it")?;
        let now = Timestamp::now();
        let inode = fs::metadata(&self.folder)?.ino();
        ensure!(inode == self.inode, "its folder was made anew");

        if let Some(version) = self.version.as_ref().filter(|it| it.content == content) {
            version.ensure_valid(now)?;
            return Ok(None);
        }
        let (token, expires_at) = self.parse(&content)?;
        let before = self.version.replace(Version {
            file,
            content,
            token: token.clone(),
            expires_at,
        });
        if let Some(version) = &self.version {
            version.ensure_valid(now)?;
        }
        match before {
            None => Ok(Some(token)),
            Some(before) => {
                before.ensure_untouched()?;
                Ok((before.token != token).then_some(token))
            }
        }
    }

    fn parse(&self, content: &[u8]) -> Result<(String, (Timestamp, Timestamp))> {
        match &self.what {
            Watched::Docker(_, host) => {
                let logins = files::logins(content)?;
                let own = logins.get(host).context("the login is gone")?;
                let first = logins.values().map(|it| it.expires_at).min();
                let first = first.unwrap_or(own.expires_at);
                Ok((own.token.clone(), (own.expires_at, first)))
            }
            Watched::Cluster(_) => {
                let token = files::exec_token(content)?;
                ensure!(
                    token.published < token.expires_at,
                    "clients are told that it is valid until {}, it expires at {}",
                    token.published,
                    token.expires_at
                );
                // Clients ask again at the published time: a new one has to be there by then.
                Ok((token.token, (token.published, token.published)))
            }
        }
    }
}

impl Version {
    fn ensure_valid(&self, now: Timestamp) -> Result<()> {
        let (own, all) = self.expires_at;
        ensure!(now < own, "the credential expired at {own}");
        ensure!(now < all + REMOVAL, "another one expired at {all}");
        Ok(())
    }

    /// Whoever still reads an older version has to see it whole.
    fn ensure_untouched(&self) -> Result<()> {
        let mut content = Vec::new();
        let mut file = &self.file;
        file.rewind().context("read the older version again")?;
        file.read_to_end(&mut content)
            .context("read the older version again")?;
        ensure!(
            content == self.content,
            "the older version was written over"
        );
        Ok(())
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A writer of credentials is killed at any point of its work, ten thousand times, and no reader ever
//! notices.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent::store::{Directory, Store};
use agent::volume::Volume;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use harness::generations::{self, Generation, Kind, scatter};
use harness::process::Process;
use harness::progress;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

use crate::case::{Case, last};
use crate::scene::Prepared;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    // Alone on the machine it takes a minute.
    vec![last!(a_writer_that_is_killed_tears_no_file).within(LIMIT)]
}

const LIMIT: Duration = Duration::from_secs(420);
const KILLS: u32 = 10_000;
/// So many kills have to hit the writing of each file; it is about one in fifty.
const AT_LEAST: u32 = 20;
/// A life ends within this time, from its start or from its first file on: several rounds of writing.
const LONGEST_LIFE: Duration = Duration::from_millis(3);
/// A life that has to write does so within this time.
const FIRST_FILE: Duration = Duration::from_secs(30);
/// Between two looks for it.
const PAUSE: Duration = Duration::from_micros(100);

async fn a_writer_that_is_killed_tears_no_file(prepared: &Prepared) -> Result<()> {
    let writer = prepared.binaries.volume_writer();
    let folder = prepared.folder.join("kills");
    tokio::task::spawn_blocking(move || kill_and_read(&writer, &folder)).await?
}

fn kill_and_read(writer: &Path, folder: &Path) -> Result<()> {
    let volume = Mounted::new(folder.join("volume"))?;
    let store = Store::at(&volume.0);
    store.prepare()?;
    generations::write(&store, Generation { life: 0, round: 0 })?;
    let inodes = inodes(&volume.0)?;
    let mut reader = Reader::start(&volume.0)?;
    let begin = Instant::now();

    let mut left = [0_u32; 2];
    for life in 1..=KILLS {
        ensure!(
            begin.elapsed() < LIMIT,
            "only {life} kills within {LIMIT:?}"
        );
        let mut command = Command::new(writer);
        command.arg(&volume.0).arg(life.to_string());
        // What it says when it fails has to be at the end of its log.
        command.env("RUST_BACKTRACE", "0");
        let mut process = Process::start("volume-writer", &mut command, folder)?;
        // Half of them may not even have begun, the other half is surely writing.
        let has_to_write = life % 4 < 2;
        let deadline = Instant::now() + FIRST_FILE;
        while reader.life()? < life && has_to_write {
            process.ensure_running()?;
            ensure!(
                Instant::now() < deadline,
                "life {life} has not written anything"
            );
            std::thread::sleep(PAUSE);
        }
        std::thread::sleep(LONGEST_LIFE.mul_f64(scatter(life.into()) as f64 / u64::MAX as f64));
        let ended = process.kill()?;
        ensure!(ended.signal() == Some(Signal::KILL.as_raw()), "{ended}");
        for (kind, left) in Kind::ALL.into_iter().zip(&mut left) {
            *left += generations::temporaries(&volume.0, kind)?;
        }
    }
    let elapsed = begin.elapsed();
    let seen = reader.finish()?;
    progress::step(format_args!(
        "{KILLS} kills within {elapsed:.1?}; a temporary file was left {left:?} times; {} reads of {} generations \
         in {} lives",
        seen.reads, seen.generations, seen.lives
    ));

    // Else no kill hit a write, or nobody looked.
    ensure!(
        left.iter().all(|times| *times >= AT_LEAST),
        "{left:?} temporary files"
    );
    ensure!(seen.lives >= KILLS / 2, "{} lives were seen", seen.lives);
    ensure!(seen.reads > KILLS.into(), "{} reads", seen.reads);

    Volume::adopt(store)?;
    for kind in Kind::ALL {
        ensure!(
            generations::temporaries(&volume.0, kind)? == 0,
            "a temporary file is left"
        );
    }
    ensure!(self::inodes(&volume.0)? == inodes, "folders were made anew");
    Ok(())
}

fn inodes(volume: &Path) -> Result<Vec<u64>> {
    let inode =
        |directory: Directory| anyhow::Ok(fs::metadata(volume.join(directory.name()))?.ino());
    Directory::MADE.into_iter().map(inode).collect()
}

/// A tmpfs, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None)
            .context("mount a tmpfs")?;
        Ok(Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It goes with the sandbox anyway.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A thread that reads both files all the time. It ends when this is dropped.
struct Reader {
    stop: Arc<AtomicBool>,
    life: Arc<AtomicU32>,
    thread: Option<JoinHandle<Result<Seen>>>,
}

/// What it saw without a fault.
#[derive(Debug, Default)]
struct Seen {
    reads: u64,
    generations: u64,
    lives: u32,
}

impl Reader {
    fn start(volume: &Path) -> Result<Self> {
        let files = [
            Watched::new(volume, Kind::Docker)?,
            Watched::new(volume, Kind::Cluster)?,
        ];
        let (stop, life) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let thread = {
            let (stop, life) = (Arc::clone(&stop), Arc::clone(&life));
            std::thread::spawn(move || read(files, &stop, &life))
        };
        Ok(Self {
            stop,
            life,
            thread: Some(thread),
        })
    }

    /// The last life that it has seen something of.
    ///
    /// # Errors
    /// With the first fault that was seen.
    fn life(&mut self) -> Result<u32> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            self.join()?;
            bail!("the reader has ended");
        }
        Ok(self.life.load(Ordering::Relaxed))
    }

    /// Ends it.
    ///
    /// # Errors
    /// As [`Reader::life`].
    fn finish(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(&mut self) -> Result<Seen> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_panic)) => Err(anyhow!("the reader panicked")),
            None => Err(anyhow!("the reader has ended")),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One file, opened anew for each look.
struct Watched {
    kind: Kind,
    path: PathBuf,
    last: Generation,
}

impl Watched {
    fn new(volume: &Path, kind: Kind) -> Result<Self> {
        let folder = volume.join(kind.directory().name());
        Ok(Self {
            kind,
            path: folder.join(kind.file_name()?.as_str()),
            last: Generation::default(),
        })
    }

    fn look(&mut self) -> Result<Generation> {
        let last = self.last;
        let fault = || format!("{:?}, last seen of {last:?}", self.kind);
        let content = fs::read(&self.path).with_context(fault)?;
        let seen = self.kind.judge(&content);
        let seen = seen.with_context(|| format!("{} bytes of {}", content.len(), fault()))?;
        ensure!(seen >= last, "{seen:?} of {}", fault());
        self.last = seen;
        Ok(seen)
    }
}

fn read(mut files: [Watched; 2], stop: &AtomicBool, life: &AtomicU32) -> Result<Seen> {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let [docker, cluster] = &mut files;
        let before = docker.last;
        let second = cluster.look()?;
        let first = docker.look()?;
        ensure!(
            first >= second,
            "{first:?} is there, and {second:?}, which is written after its own"
        );
        seen.reads += 2;
        seen.generations += u64::from(first > before);
        seen.lives += u32::from(first.life > before.life);
        life.fetch_max(first.life, Ordering::Relaxed);
    }
    Ok(seen)
}

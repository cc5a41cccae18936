//! Child processes that end with the value that owns them, and waiting for what they do.
//!
//! Command in; a running [`Process`] out, its output in a log file of the run's folder. A component
//! that ends early is an error that shows the end of that log, at once and not at a deadline.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Programs that begin later than the harness starts them, as on a machine that gives them no time: a list like
/// `argocd-identity=5,redis=2`, by the names of their logs and in seconds; what starts another program for itself, as
/// sandboxed containers do, may have done so before it is held. With it a suite shows orders of start-up that
/// nothing waits for.
const LATE: &str = "WORKLOAD_IDENTITY_LATE";
/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(25);
/// Time that a process has to end after SIGTERM, unless told otherwise.
const GRACE: Duration = Duration::from_secs(5);
/// Lines of log that an error shows.
const LOG_LINES: usize = 25;
/// Bytes at a log's end that are searched for those lines.
const LOG_BYTES: u64 = 64 * 1024;

/// A running child process. Dropping it ends the process: SIGTERM, then SIGKILL after the grace.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    grace: Duration,
}

impl Process {
    /// Starts `command` with no input and with both outputs appended to `<logs>/<name>.log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs).with_context(|| format!("create {}", logs.display()))?;
        let log = logs.join(format!("{name}.log"));
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let errors = output.try_clone().context("share a log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {name} ({})", program(command).display()))?;
        let mut process = Self {
            name: name.to_owned(),
            child,
            log,
            grace: GRACE,
        };
        if let Ok(late) = env::var(LATE)
            && let Some(time) = lateness(&late, name)?
        {
            process.hold(time)?;
        }
        Ok(process)
    }

    /// Stops it for this time, when it has done next to nothing.
    fn hold(&mut self, time: Duration) -> Result<()> {
        let pid = pid(&self.child).with_context(|| format!("pid of {}", self.name))?;
        self.signal(Signal::STOP)?;
        std::thread::spawn(move || {
            std::thread::sleep(time);
            // It may have been killed in the meantime.
            let _ = kill_process(pid, Signal::CONT);
        });
        Ok(())
    }

    /// Sets how long the process has to end after SIGTERM; zero means SIGKILL at once, which suits
    /// a component whose state is thrown away.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The name that it was started under, as in its log's file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, in the PID namespace of this program.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("look after {}", self.name))
    }

    /// Makes sure that it still runs.
    ///
    /// # Errors
    /// When it ended, with how and with its last log lines.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended early ({status}); the end of {}:\n{}",
                self.name,
                self.log.display(),
                tail(&self.log)
            ),
        }
    }

    /// Waits until `condition` holds, as [`wait_until`] does, but gives up as soon as the process ends.
    ///
    /// # Errors
    /// When the process ends, or at the limit; either error shows the last log lines.
    pub async fn ready<T, F, Fut>(&mut self, limit: Duration, mut condition: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let deadline = Instant::now() + limit;
        loop {
            self.ensure_running()?;
            match attempt(deadline, condition()).await {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!(
                        "{} was not ready after {limit:?}; the end of {}:\n{}",
                        self.name,
                        self.log.display(),
                        tail(&self.log)
                    )));
                }
                Err(_) => tokio::time::sleep(INTERVAL).await,
            }
        }
    }

    /// Sends a signal, for example SIGHUP to reload or SIGSTOP to freeze it.
    ///
    /// # Errors
    /// When it ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.ensure_running()?;
        let pid = pid(&self.child).with_context(|| format!("pid of {}", self.name))?;
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Ends it by SIGKILL, as a crash does, and waits until it is gone.
    ///
    /// # Errors
    /// When it ended already, or the kernel refuses the wait.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        let ended = self.child.wait();
        ended.with_context(|| format!("wait for the end of {}", self.name))
    }

    /// Ends it now: SIGTERM, and SIGKILL after the grace. Nothing happens when it ended already.
    ///
    /// # Errors
    /// When the kernel refuses the signal or the wait.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let what = || format!("stop {}", self.name);
        if let Some(status) = self.child.try_wait().with_context(what)? {
            return Ok(status);
        }
        if !self.grace.is_zero()
            && let Some(pid) = pid(&self.child)
        {
            // The child is not reaped yet, so its pid cannot be another process's.
            kill_process(pid, Signal::TERM).with_context(what)?;
            let deadline = Instant::now() + self.grace;
            while Instant::now() < deadline {
                if let Some(status) = self.child.try_wait().with_context(what)? {
                    return Ok(status);
                }
                std::thread::sleep(INTERVAL);
            }
        }
        self.child.kill().with_context(what)?;
        self.child.wait().with_context(what)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody to tell: the sandbox's PID namespace ends whatever is left.
        let _ = self.stop();
    }
}

/// Runs a short program to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or does not end well, with what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = program(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", name.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed ({}):\n{}",
            name.display(),
            output.status,
            last_lines(&said)
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {}", name.display()))
}

/// Looks at `condition` again and again until it answers `Ok`, and returns that answer.
///
/// `what` completes the sentence "waited for …". One look may not outlast the limit either.
///
/// # Errors
/// At the limit, the condition's last error.
pub async fn wait_until<T, F, Fut>(what: &str, limit: Duration, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    let mut reason = anyhow!("the first look did not end in time");
    loop {
        match tokio::time::timeout_at(deadline.into(), condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => reason = error,
            // What was seen before says more than that this look was cut off.
            Err(_elapsed) => {}
        }
        if Instant::now() >= deadline {
            return Err(reason.context(format!("waited {limit:?} for {what}")));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn attempt<T>(deadline: Instant, look: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout_at(deadline.into(), look)
        .await
        .unwrap_or_else(|_elapsed| Err(anyhow!("the last look did not end in time")))
}

/// The last lines of a log, for an error's text; empty when there is no such file.
#[must_use]
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    last_lines(&read().unwrap_or_default())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// How much later than it is started the list has a program begin.
fn lateness(list: &str, name: &str) -> Result<Option<Duration>> {
    for entry in list.split(',').filter(|entry| !entry.is_empty()) {
        let Some((late, seconds)) = entry.split_once('=') else {
            bail!("{LATE}: {entry} is not <name>=<seconds>");
        };
        if late == name {
            let seconds = seconds
                .parse()
                .with_context(|| format!("{LATE}: {entry}"))?;
            return Ok(Some(Duration::from_secs_f64(seconds)));
        }
    }
    Ok(None)
}

fn program(command: &Command) -> PathBuf {
    PathBuf::from(OsString::from(command.get_program()))
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn an_early_end_shows_the_log() {
        let logs = tempfile::tempdir().unwrap();
        let mut process = Process::start(
            "brief",
            &mut shell("echo no such flag; exit 3"),
            logs.path(),
        )
        .unwrap();
        let error = process
            .ready(Duration::from_secs(10), || async {
                Err::<(), _>(anyhow!("not yet"))
            })
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("ended early"), "{text}");
        assert!(text.contains("no such flag"), "{text}");
    }

    #[test]
    fn a_drop_ends_it() {
        let logs = tempfile::tempdir().unwrap();
        let process = Process::start("sleeper", &mut shell("exec sleep 600"), logs.path()).unwrap();
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn a_deaf_process_is_killed() {
        let logs = tempfile::tempdir().unwrap();
        let mut process = Process::start(
            "deaf",
            &mut shell("trap '' TERM; while :; do sleep 1; done"),
            logs.path(),
        )
        .unwrap()
        .with_grace(Duration::from_millis(50));
        assert!(!process.stop().unwrap().success());
    }

    #[test]
    fn programs_are_late_by_name() {
        let list = "redis=2,argocd-repo-server=0.5";
        let found = |name| lateness(list, name).unwrap();
        assert_eq!(found("redis"), Some(Duration::from_secs(2)));
        assert_eq!(
            found("argocd-repo-server"),
            Some(Duration::from_millis(500))
        );
        assert_eq!(found("argocd-server"), None);
        assert!(lateness("redis", "redis").is_err());
    }

    #[tokio::test]
    async fn a_late_program_begins_when_its_time_has_come() {
        let logs = tempfile::tempdir().unwrap();
        let mut process =
            Process::start("late", &mut shell("exec sleep 600"), logs.path()).unwrap();
        process.hold(Duration::from_secs(1)).unwrap();
        for is_held in [true, false] {
            let state = format!("/proc/{}/stat", process.id());
            let state = state.as_str();
            let seen = process.ready(Duration::from_secs(10), || async move {
                let found = fs::read_to_string(state)?;
                anyhow::ensure!(found.contains(") T ") == is_held, "{found}");
                Ok(())
            });
            seen.await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_last_error_is_told_at_the_limit() {
        let error = wait_until("rain", Duration::from_millis(60), || async {
            Err::<(), _>(anyhow!("the sky is clear"))
        })
        .await
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("for rain"), "{text}");
        assert!(text.contains("the sky is clear"), "{text}");
    }
}

//! Apache with git's CGI program, as git-http-backend(1) has it, on loopback.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::content::{CHARTS, GIT};
use crate::folders::create;
use crate::ports;
use crate::process::Process;

const READY: Duration = Duration::from_secs(10);
/// Debian's www-data, which every installation has: Apache serves nothing as root.
const USER: &str = "33";
const MODULES: &str = "/usr/lib/apache2/modules";

/// Starts it and waits until it answers. Its content is what anybody can read below `folder`. Returns the URL, too.
pub(super) async fn start(folder: &Path) -> Result<(Process, String)> {
    let port = ports::free()?;
    let logs = create(folder.join("apache"))?;
    create(folder.join("www").join(CHARTS))?;
    create(folder.join(GIT))?;
    let configuration = logs.join("apache.conf");
    fs::write(&configuration, configure(folder, port)).context("configure Apache")?;
    std::os::unix::fs::chown(&logs, USER.parse().ok(), USER.parse().ok())
        .with_context(|| format!("give {} to Apache", logs.display()))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
        .args(["/usr/sbin/apache2", "-D", "FOREGROUND", "-f"])
        .arg(&configuration);
    let mut process = Process::start("apache", &mut command, &logs)?;
    let url = format!("http://127.0.0.1:{port}");
    let (client, probe) = (reqwest::Client::builder().no_proxy().build()?, &url);
    process
        .ready(READY, || {
            let request = client.get(probe);
            async move {
                let status = request.send().await?.status();
                ensure!(!status.is_server_error(), "{status}");
                Ok(())
            }
        })
        .await?;
    Ok((process, url))
}

fn configure(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        r#"
ServerRoot "{folder}/apache"
ServerName localhost
Listen 127.0.0.1:{port}
PidFile "{folder}/apache/pid"
DefaultRuntimeDir "{folder}/apache"
ErrorLog "{folder}/apache/error.log"
LoadModule mpm_event_module {MODULES}/mod_mpm_event.so
LoadModule authz_core_module {MODULES}/mod_authz_core.so
LoadModule alias_module {MODULES}/mod_alias.so
LoadModule env_module {MODULES}/mod_env.so
LoadModule cgid_module {MODULES}/mod_cgid.so
ScriptSock "{folder}/apache/cgi"
DocumentRoot "{folder}/www"
<Directory "{folder}/www">
  Require all granted
</Directory>
SetEnv GIT_PROJECT_ROOT "{folder}/{GIT}"
SetEnv GIT_HTTP_EXPORT_ALL 1
# The repositories are another user's.
SetEnv GIT_CONFIG_COUNT 1
SetEnv GIT_CONFIG_KEY_0 safe.directory
SetEnv GIT_CONFIG_VALUE_0 *
ScriptAlias "/{GIT}/" "/usr/lib/git-core/git-http-backend/"
<Directory "/usr/lib/git-core">
  Require all granted
</Directory>
"#
    )
}

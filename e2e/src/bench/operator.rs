//! The operator as a process of this machine: the static release binary of its image, with the rights of the chart's ServiceAccount.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::process::Process;
use super::world::World;
use super::{Error, row};
use crate::{command, demo, install};

/// The user that its requests are made as.
pub const USER: &str = "system:serviceaccount:trainyard-system:trainyard";
/// From start to ready: its caches are small here.
const LIMIT: Duration = Duration::from_secs(60);

/// A running operator; it ends with the value.
pub struct Operator {
    child: Child,
    /// Before it was started.
    pub began: SystemTime,
}

impl Operator {
    /// Starts it for all namespaces and waits until it works. `kubeconfig` says how it reaches the API server.
    pub fn start(world: &World, kubeconfig: &Path) -> Result<Self, Error> {
        world.in_cluster(None)?;
        let (health, report) = (free_address()?, free_address()?);
        let path = row::folder().join("operator.log");
        let log = || {
            fs::create_dir_all(row::folder())?;
            let file = File::create(&path)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) = log().map_err(Error::file(&path))?;
        let store = demo::default_store();
        let store = store.strip_prefix("defaultStore=").unwrap_or(&store);
        // It ends with us even when we are killed.
        let mut operator = Command::new("/usr/bin/setpriv");
        operator.args(["--pdeathsig", "KILL"]).arg(&world.operator);
        operator.env_clear().env("KUBECONFIG", kubeconfig);
        operator.env("TRAINYARD_RUNNER_IMAGE", &world.runner).env("TRAINYARD_RUNNER_MOUNT", "Image");
        operator.env("TRAINYARD_HEALTH_LISTEN", &health).env("TRAINYARD_REPORT_LISTEN", &report);
        operator.env("TRAINYARD_REPORT_URL", format!("http://{report}")).env("TRAINYARD_DEFAULT_STORE", store);
        operator.stdin(Stdio::null()).stdout(out).stderr(err);
        let began = SystemTime::now();
        let child = operator.spawn().map_err(Error::file(&world.operator))?;
        let mut operator = Self { child, began };
        let began = Instant::now();
        while !is_ready(&health) {
            if began.elapsed() > LIMIT || !matches!(operator.child.try_wait(), Ok(None)) {
                return Err(Error::Operator { log: path.clone(), last: command::tail(&path) });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(operator)
    }

    /// What the kernel knows of it.
    #[must_use]
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the kubeconfig of the chart's ServiceAccount into `folder`.
pub fn kubeconfig(world: &World, folder: &Path) -> Result<PathBuf, Error> {
    let account = install::RELEASE;
    let token = world.kubectl(&["--namespace", install::NAMESPACE, "create", "token", account, "--duration=24h"])?;
    let admin = world.cluster.kubeconfig();
    let text = fs::read_to_string(admin).map_err(Error::file(admin))?;
    let config = with_token(serde_json::from_str(&text)?, token.trim());
    let path = folder.join("operator.conf");
    fs::write(&path, config.to_string()).map_err(Error::file(&path))?;
    Ok(path)
}

/// The same servers, entered with a token.
fn with_token(mut config: Value, token: &str) -> Value {
    for user in config["users"].as_array_mut().into_iter().flatten() {
        user["user"] = json!({"token": token});
    }
    config
}

/// An address that is free now, on loopback.
fn free_address() -> Result<String, Error> {
    let free = || Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.to_string());
    free().map_err(|source| Error::Listen { address: "127.0.0.1".to_owned(), source })
}

fn is_ready(address: &str) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("GET /readyz HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok::<_, std::io::Error>(start.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_does_not_come_as_administrator() {
        let admin = json!({
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"client-key-data": "secret"}}],
        });
        let config = with_token(admin, "t");
        assert_eq!(config["users"][0]["user"], json!({"token": "t"}));
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:1");
    }
}

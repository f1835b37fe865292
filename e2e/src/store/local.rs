//! An S3 server as a process of this machine, as long as its value lives.

use super::{Access, BUCKET, Error, REGION};
use crate::build::Product;
use crate::command;
use crate::paths::Directories;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

/// A versitygw on loopback with an empty bucket in a folder of its own. It ends, and the folder goes, with this value.
#[derive(Debug)]
pub struct LocalVersity {
    access: Access,
    process: Child,
    folder: TempDir,
}

impl LocalVersity {
    /// Starts the server and waits until it answers. Built at the first time, it takes a minute; then tens of milliseconds.
    pub fn start() -> Result<Self, Error> {
        let program = Product::Versitygw.ensure(&Directories::from_env())?.join("versitygw");
        let folder = TempDir::with_prefix("trainyard-store-").map_err(Error::file(std::env::temp_dir()))?;
        let (root, log) = (folder.path().join("data"), folder.path().join("log"));
        fs::create_dir_all(root.join(BUCKET)).map_err(Error::file(&root))?;
        let address = free_address().map_err(Error::file("127.0.0.1"))?;
        let out = File::create(&log).map_err(Error::file(&log))?;
        let err = out.try_clone().map_err(Error::file(&log))?;
        let (access_key, secret_key) = ("trainyard-local", "trainyard-local-secret");
        let mut server = Command::new(&program);
        server.args(["--port", &address, "--region", REGION, "--quiet", "--keep-alive", "posix"]).arg(&root);
        server.env("ROOT_ACCESS_KEY", access_key).env("ROOT_SECRET_KEY", secret_key);
        server.stdin(Stdio::null()).stdout(out).stderr(err);
        let process = server.spawn().map_err(Error::file(program))?;
        let access = Access {
            endpoint: format!("http://{address}"),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            bucket: BUCKET.to_owned(),
        };
        let mut store = Self { access, process, folder };
        store.wait(&address, &log)?;
        Ok(store)
    }

    /// The folder whose folders are the buckets.
    #[must_use]
    pub fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn wait(&mut self, address: &str, log: &Path) -> Result<(), Error> {
        let end = Instant::now() + LIMIT;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > end || !matches!(self.process.try_wait(), Ok(None)) {
                return Err(Error::NotReady { limit: LIMIT, last: command::tail(log) });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Deref for LocalVersity {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

impl Drop for LocalVersity {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that is free now. Another process may take it before the server does: then the server ends, and says so.
fn free_address() -> std::io::Result<String> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.to_string())
}

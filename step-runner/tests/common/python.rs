//! Real frameworks from PyPI, by exact versions and hashes, kept in the project's cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Those of the image that examples of training run in, below the repository.
pub const TRAINING: &str = "deploy/images/python/training.txt";
/// MPICH, and Open MPI, which cannot be beside it.
pub const MPICH: &str = "deploy/images/python/mpi.txt";
pub const OPEN_MPI: &str = "step-runner/tests/programs/openmpi.txt";

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn cache() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    variable("TRAINYARD_CACHE").unwrap_or_else(|| {
        let home = || variable("HOME").unwrap().join(".cache");
        variable("XDG_CACHE_HOME").unwrap_or_else(home).join("trainyard")
    })
}

/// Packages of a requirements file: programs in `bin`, libraries in `lib`.
pub struct Packages(PathBuf);

impl Packages {
    /// What a Python process needs to find them.
    pub fn variables(&self) -> Vec<(String, String)> {
        let python = std::fs::read_dir(self.0.join("lib")).unwrap().map(|entry| entry.unwrap().path());
        let mut python = python.filter(|path| path.join("site-packages").exists());
        let path = std::env::var("PATH").unwrap();
        let variables = [
            ("PATH", format!("{}:{path}", self.0.join("bin").display())),
            ("LD_LIBRARY_PATH", self.0.join("lib").display().to_string()),
            ("PYTHONPATH", python.next().unwrap().join("site-packages").display().to_string()),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            // How many processes share this machine is the test's business.
            ("OPENBLAS_NUM_THREADS", "1".into()),
            ("OMP_NUM_THREADS", "1".into()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// A program of them.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join("bin").join(name)
    }
}

/// The packages of a requirements file, installed at the first time.
pub fn packages(requirements: &str) -> Packages {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let requirements = repository().join(requirements);
    let text = std::fs::read(&requirements).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &text);
    let name: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let parent = cache().join("python");
    let there = parent.join(name);
    if there.exists() {
        return Packages(there);
    }
    std::fs::create_dir_all(&parent).unwrap();
    let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&parent).unwrap();
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]);
    pip.args(["--disable-pip-version-check", "--root-user-action=ignore", "--ignore-installed", "--prefix"]);
    let output = pip.arg(unfinished.path()).arg("--requirement").arg(&requirements).output().unwrap();
    assert!(output.status.success(), "pip: {}", String::from_utf8_lossy(&output.stderr));
    // Another process may have been first.
    let _ = std::fs::rename(unfinished.path(), &there);
    assert!(there.exists());
    Packages(there)
}

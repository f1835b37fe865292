//! Finding a program as `execvp` would, but so that its absence can be explained.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Program, StartError};

/// What a program gets that has no `PATH`, as in `execvp`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file to execute.
pub(super) fn find(program: &Program) -> Result<PathBuf, StartError> {
    let name = &program.name;
    if name.is_empty() {
        return Err(StartError::Nothing);
    }
    let current = || std::env::current_dir().unwrap_or_else(|_| "/".into());
    let directory = program.directory.clone().unwrap_or_else(current);
    if !directory.is_dir() {
        return Err(StartError::Directory { directory: directory.display().to_string() });
    }
    if name.contains('/') {
        let path = directory.join(name);
        return match is_program(&path) {
            Some(true) => Ok(path),
            Some(false) => Err(StartError::NotExecutable { name: name.clone(), path: path.display().to_string() }),
            None => Err(StartError::Missing { name: name.clone(), directory: directory.display().to_string() }),
        };
    }
    let path = program.environment.get(std::ffi::OsStr::new("PATH")).cloned().unwrap_or_else(|| DEFAULT_PATH.into());
    let mut refused = None;
    for part in std::env::split_paths(&path) {
        let candidate = directory.join(part).join(name);
        match is_program(&candidate) {
            Some(true) => return Ok(candidate),
            Some(false) => refused = refused.or(Some(candidate)),
            None => {}
        }
    }
    Err(match refused {
        Some(file) => StartError::NotExecutable { name: name.clone(), path: file.display().to_string() },
        None => StartError::NotFound { name: name.clone(), path: path.to_string_lossy().into_owned() },
    })
}

/// `None` if there is no such file; whether it may be executed by us.
fn is_program(path: &Path) -> Option<bool> {
    let meta = std::fs::metadata(path).ok()?;
    let allowed = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    Some(meta.is_file() && meta.permissions().mode() & 0o111 != 0 && allowed)
}

/// What the kernel's refusal means for the person who named the program.
pub(super) fn explain(name: &str, path: &Path, error: std::io::Error) -> StartError {
    let name = name.to_owned();
    match error.kind() {
        // It was there a moment ago, so it is the interpreter that is not.
        std::io::ErrorKind::NotFound => StartError::Interpreter { name },
        std::io::ErrorKind::PermissionDenied => StartError::NotExecutable { name, path: path.display().to_string() },
        std::io::ErrorKind::ArgumentListTooLong => StartError::TooLong { name },
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => StartError::Format { name },
        _ => StartError::Other { name, source: error },
    }
}

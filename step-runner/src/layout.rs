//! The files of the contract below the root: directories, parameters, the script.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use step_protocol::{StepSpec, paths};

use crate::beneath;
use crate::failure::Failure;

/// Makes what is missing below the root. A directory that exists (a mounted volume, the code) stays as it is.
pub(crate) fn prepare(spec: &StepSpec) -> Result<(), Failure> {
    check_names(spec)?;
    let root = Path::new(&spec.root);
    if !root.is_absolute() {
        return Err(Failure::config(format!("the root {:?} is not an absolute path", spec.root)));
    }
    let checkpoint = spec.checkpoint.as_ref().map(|_| paths::CHECKPOINT);
    for name in ["", paths::IN, paths::OUT, paths::RESULTS, paths::HOME, paths::TMP].into_iter().chain(checkpoint) {
        let path = root.join(name);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(|error| Failure::io("make the directory", &path, &error))?;
    }
    let params = serde_json::to_vec(&spec.params).map_err(|error| Failure::config(format!("params: {error}")))?;
    write(&root.join(paths::PARAMS), &params, 0o644)?;
    if let Some(script) = &spec.script {
        write(&root.join(paths::SCRIPT), script.as_bytes(), 0o755)?;
    }
    Ok(())
}

/// Names become parts of paths, so each must be one part.
fn check_names(spec: &StepSpec) -> Result<(), Failure> {
    let names = spec.inputs.iter().map(|input| ("input", &input.name));
    let names = names.chain(spec.outputs.iter().map(|output| ("output", &output.name)));
    let names = names.chain(spec.results.iter().map(|result| ("result", &result.name)));
    for (kind, name) in names {
        if !beneath::is_name(name) {
            return Err(Failure::config(format!("the {kind} name {name:?} is not one part of a path")));
        }
    }
    Ok(())
}

/// The program: the script if there is one, else the first word of the command.
pub(crate) fn script_path(spec: &StepSpec) -> Option<PathBuf> {
    spec.script.as_ref().map(|_| Path::new(&spec.root).join(paths::SCRIPT))
}

/// The child's working directory: as the step says, else the code, else the container's own.
pub(crate) fn working_directory(spec: &StepSpec) -> Option<PathBuf> {
    spec.working_dir.as_ref().map(PathBuf::from).or_else(|| {
        let code = Path::new(&spec.root).join(paths::CODE);
        code.is_dir().then_some(code)
    })
}

/// Writes a file of ours.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io("write", path, &error);
    // A new file: the old one may belong to an earlier attempt of this container, or be read-only.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}

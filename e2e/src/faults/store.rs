//! What lies in the store at the end of a case, checked against itself: every commit record, and whether the bytes that it
//! leads to are those that it names.

use super::history::Recorder;
use anyhow::{Context as _, Result};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use step_protocol::{CommitRecord, Manifest, Pack, Packed, paths};

/// The commit record of one stage of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// UID of the run.
    pub run_uid: String,
    /// Name of the stage.
    pub stage: String,
    /// Its key in the store.
    pub key: String,
    /// The attempt that won.
    pub attempt: u32,
    /// When it was written.
    pub at: Duration,
    /// Every output with its digest.
    pub outputs: BTreeMap<String, String>,
    /// Every result.
    pub results: BTreeMap<String, Value>,
    /// What is wrong with it or with what it names.
    pub flaw: Option<String>,
}

/// Every commit record below the folder of a store on a volume. A folder that is not there holds none: an S3 server removes those
/// that become empty.
pub fn commits(root: &Path, recorder: &Recorder) -> Result<Vec<Commit>> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| folder.display().to_string()),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.file_name().is_some_and(|name| name == paths::COMMIT) {
                found.push(read(root, &path, recorder)?);
            }
        }
    }
    found.sort_by_key(|commit| commit.at);
    Ok(found)
}

/// A file's time may be some milliseconds early, never late: no record is taken for younger than it is.
fn read(root: &Path, path: &Path, recorder: &Recorder) -> Result<Commit> {
    let at = recorder.moment(fs::metadata(path)?.modified()?);
    let bytes = fs::read(path)?;
    let key = path.strip_prefix(root)?.display().to_string();
    let record: CommitRecord = match serde_json::from_slice(&bytes) {
        Ok(record) => record,
        Err(error) => {
            let flaw = Some(format!("{key} is no commit record: {error}"));
            return Ok(Commit { key, at, flaw, ..Commit::default() });
        }
    };
    let flaw = record.outputs.iter().find_map(|output| {
        let checked = check(&root.join(&output.prefix), &output.digest);
        checked.err().map(|error| format!("output {}: {error:#}", output.name))
    });
    Ok(Commit {
        run_uid: record.run_uid,
        stage: record.stage,
        key,
        attempt: record.attempt,
        at,
        outputs: record.outputs.into_iter().map(|output| (output.name, output.digest)).collect(),
        results: record.results,
        flaw,
    })
}

/// Whether an output's manifest and files are those that its digest stands for.
fn check(folder: &Path, digest: &str) -> Result<()> {
    let bytes = read_file(folder.join(paths::MANIFEST))?;
    anyhow::ensure!(sha256(&bytes) == digest, "the manifest's digest is {}, not {digest}", sha256(&bytes));
    let manifest: Manifest = serde_json::from_slice(&bytes)?;
    let packs: Vec<Vec<u8>> = manifest.packs.iter().map(|pack| read_pack(folder, pack)).collect::<Result<_>>()?;
    for file in manifest.files {
        let whole;
        let bytes = match file.packed {
            None => {
                whole = read_file(folder.join(paths::object_name(&file.path)))?;
                whole.as_slice()
            }
            Some(at) => slice(&packs, at, file.size).with_context(|| format!("{} is not in its pack", file.path))?,
        };
        let (size, digest) = (u64::try_from(bytes.len())?, sha256(bytes));
        anyhow::ensure!(size == file.size, "{} has {size} bytes, not {}", file.path, file.size);
        anyhow::ensure!(digest == file.digest, "{} has the digest {digest}, not {}", file.path, file.digest);
    }
    Ok(())
}

fn read_pack(folder: &Path, pack: &Pack) -> Result<Vec<u8>> {
    let bytes = read_file(folder.join(&pack.name))?;
    let size = u64::try_from(bytes.len())?;
    anyhow::ensure!(size == pack.size, "{} has {size} bytes, not {}", pack.name, pack.size);
    Ok(bytes)
}

/// The bytes of a packed file.
fn slice(packs: &[Vec<u8>], at: Packed, size: u64) -> Option<&[u8]> {
    let begin = usize::try_from(at.offset).ok()?;
    packs.get(at.pack)?.get(begin..begin.checked_add(usize::try_from(size).ok()?)?)
}

fn read_file(path: PathBuf) -> Result<Vec<u8>> {
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use step_protocol::{CommittedOutput, ManifestFile};

    const PREFIX: &str = "n/p/r.u/a/1/text";

    #[test]
    fn a_store_that_was_never_written_to_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(commits(&folder.path().join("none"), &Recorder::default()).unwrap(), []);
    }

    /// A store with one stage and one output of one file.
    fn store(content: &[u8]) -> tempfile::TempDir {
        let file = file("text", None);
        let manifest = Manifest { version: 1, directory: false, files: vec![file], packs: Vec::new() };
        with(&manifest, "text", content)
    }

    fn file(path: &str, packed: Option<Packed>) -> ManifestFile {
        ManifestFile { path: path.into(), size: 2, digest: sha256(b"a\n"), executable: false, packed }
    }

    /// A store with one stage, whose output has this manifest and one object.
    fn with(manifest: &Manifest, object: &str, content: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let prefix = PREFIX;
        let output = folder.path().join(prefix);
        fs::create_dir_all(&output).unwrap();
        fs::write(output.join(object), content).unwrap();
        let manifest = serde_json::to_vec(manifest).unwrap();
        fs::write(output.join("manifest.json"), &manifest).unwrap();
        let output = CommittedOutput {
            name: "text".into(),
            kind: None,
            prefix: prefix.into(),
            digest: sha256(&manifest),
            bytes: 2,
            files: 1,
        };
        let record = CommitRecord {
            version: 1,
            run_uid: "u".into(),
            stage: "a".into(),
            attempt: 1,
            outputs: vec![output],
            results: BTreeMap::new(),
            metrics: BTreeMap::new(),
            started: None,
            finished: None,
        };
        fs::write(folder.path().join("n/p/r.u/a/COMMIT"), serde_json::to_vec(&record).unwrap()).unwrap();
        folder
    }

    fn only(folder: &tempfile::TempDir) -> Commit {
        let mut found = commits(folder.path(), &Recorder::default()).unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn a_record_is_found_with_what_it_names() {
        let commit = only(&store(b"a\n"));
        assert_eq!((commit.stage.as_str(), commit.key.as_str(), commit.flaw), ("a", "n/p/r.u/a/COMMIT", None));
        assert!(commit.outputs["text"].starts_with("sha256:"));
    }

    #[test]
    fn packed_files_are_looked_at_in_their_packs() {
        let pack = Pack { name: paths::pack_name(0), size: 4 };
        let at = |offset| Some(Packed { pack: 0, offset });
        let files = vec![file("x", at(0)), file("y", at(2))];
        let mut manifest = Manifest { version: 1, directory: true, files, packs: vec![pack] };
        let flaw = |manifest: &Manifest, content: &[u8]| only(&with(manifest, &paths::pack_name(0), content)).flaw;
        assert_eq!(flaw(&manifest, b"a\na\n"), None);
        assert!(flaw(&manifest, b"a\nb\n").unwrap().contains("y has the digest"));
        assert!(flaw(&manifest, b"a\na").unwrap().contains("has 3 bytes, not 4"));
        manifest.files[1].packed = at(3);
        assert!(flaw(&manifest, b"a\na\n").unwrap().contains("y is not in its pack"));
    }

    #[test]
    fn other_bytes_missing_bytes_and_a_garbled_record_are_flaws() {
        assert!(only(&store(b"b\n")).flaw.unwrap().contains("has the digest"));
        assert!(only(&store(b"a")).flaw.unwrap().contains("has 1 bytes, not 2"));
        let folder = store(b"a\n");
        fs::remove_file(folder.path().join("n/p/r.u/a/1/text/manifest.json")).unwrap();
        assert!(only(&folder).flaw.unwrap().contains("reading"));
        fs::write(folder.path().join("n/p/r.u/a/COMMIT"), "{").unwrap();
        assert!(only(&folder).flaw.unwrap().contains("is no commit record"));
    }
}

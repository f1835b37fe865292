//! A layer: entries by path, written as a tar file that depends on nothing else.

use super::Error;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The entries of a layer. The parents of an entry need not be there: they are made.
#[derive(Debug, Default)]
pub(super) struct Layer {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
struct Entry {
    what: What,
    mode: u32,
    owner: (u64, u64),
}

#[derive(Debug)]
enum What {
    Folder,
    File(PathBuf),
    Text(&'static str),
    Link(PathBuf),
}

/// Which permissions the entries of a folder get.
#[derive(Clone, Copy, Debug)]
pub(super) enum Modes {
    /// Those that they have: a package says what is right.
    Kept,
    /// Readable by all, and executable if they are: those that they have depend on who made them.
    Usual,
}

impl Modes {
    fn of(self, mode: u32, is_folder: bool) -> u32 {
        match self {
            Self::Kept => mode,
            Self::Usual if is_folder || mode & 0o111 != 0 => 0o755,
            Self::Usual => 0o644,
        }
    }
}

/// A layer in a file.
#[derive(Clone, Debug)]
pub(super) struct StoredLayer {
    pub path: PathBuf,
    /// Of the file, in hexadecimal.
    pub sha256: String,
    pub size: u64,
}

impl StoredLayer {
    /// The layer of that key, if it was made before.
    pub(super) fn find(store: &Path, key: &str) -> Option<Self> {
        let path = store.join(format!("{key}.tar"));
        let sha256 = fs::read_to_string(store.join(format!("{key}.sha256"))).ok()?;
        let size = fs::metadata(&path).ok()?.len();
        Some(Self { path, sha256, size })
    }
}

/// A name for what goes into a layer: some settings, and files by their content.
pub(super) fn key(settings: &[&str], files: &[PathBuf]) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for setting in settings {
        hash.update(setting.len().to_le_bytes());
        hash.update(setting);
    }
    for file in files {
        let mut inner = Sha256::new();
        let mut reader = File::open(file).map_err(Error::file(file))?;
        io::copy(&mut reader, &mut inner).map_err(Error::file(file))?;
        hash.update(inner.finalize());
    }
    Ok(hex(&hash.finalize()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Layer {
    /// Everything in `folder`, to lie below `to`; all of it root's.
    pub(super) fn of_folder(folder: &Path, to: &Path, modes: Modes) -> Result<Self, Error> {
        let mut layer = Self::default();
        layer.add_folder(folder, to, modes)?;
        Ok(layer)
    }

    fn add_folder(&mut self, folder: &Path, to: &Path, modes: Modes) -> Result<(), Error> {
        for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
            let source = entry.map_err(Error::file(folder))?.path();
            let target = to.join(source.file_name().unwrap_or_default());
            let metadata = fs::symlink_metadata(&source).map_err(Error::file(&source))?;
            let mode = modes.of(metadata.permissions().mode() & 0o7777, metadata.is_dir());
            if metadata.is_symlink() {
                let link = fs::read_link(&source).map_err(Error::file(&source))?;
                self.put(target, What::Link(link), 0o777, (0, 0));
            } else if metadata.is_dir() {
                self.put(target.clone(), What::Folder, mode, (0, 0));
                self.add_folder(&source, &target, modes)?;
            } else {
                self.put(target, What::File(source), mode, (0, 0));
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes over what `other` has.
    pub(super) fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// What programs expect of a root folder, where it is not there yet.
    pub(super) fn with_system_files(mut self) -> Self {
        const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n\
                             nonroot:x:65532:65532:nonroot:/tmp:/bin/false\n";
        const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n";
        for (path, mode) in [("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("root", 0o700), ("tmp", 0o1777)] {
            self.put(path.into(), What::Folder, mode, (0, 0));
        }
        self.put("etc/passwd".into(), What::Text(USERS), 0o644, (0, 0));
        self.put("etc/group".into(), What::Text(GROUPS), 0o644, (0, 0));
        self
    }

    pub(super) fn folder(&mut self, path: &str, mode: u32, owner: (u64, u64)) {
        self.put(inside(path), What::Folder, mode, owner);
    }

    pub(super) fn file(&mut self, path: &str, source: PathBuf, mode: u32) {
        self.put(inside(path), What::File(source), mode, (0, 0));
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.put(inside(path), What::Link(target.into()), 0o777, (0, 0));
    }

    fn put(&mut self, path: PathBuf, what: What, mode: u32, owner: (u64, u64)) {
        self.entries.insert(path, Entry { what, mode, owner });
    }

    fn add_parents(&mut self) {
        let parents: Vec<PathBuf> = self
            .entries
            .keys()
            .flat_map(|path| path.ancestors().skip(1))
            .filter(|path| !path.as_os_str().is_empty() && !self.entries.contains_key(*path))
            .map(Path::to_owned)
            .collect();
        for path in parents {
            self.put(path, What::Folder, 0o755, (0, 0));
        }
    }

    /// Writes the layer into `store`, under `key` or else under its digest.
    pub(super) fn store(mut self, store: &Path, key: Option<&str>) -> Result<StoredLayer, Error> {
        self.add_parents();
        fs::create_dir_all(store).map_err(Error::file(store))?;
        let file = tempfile::NamedTempFile::new_in(store).map_err(Error::file(store))?;
        let mut out = Hashing { inner: BufWriter::new(file), hash: Sha256::new(), size: 0 };
        self.write(&mut out).map_err(Error::file(store))?;
        let sha256 = hex(&out.hash.finalize());
        let file = out.inner.into_inner().map_err(|error| Error::file(store)(error.into_error()))?;
        let key = key.unwrap_or(&sha256);
        let path = store.join(format!("{key}.tar"));
        file.persist(&path).map_err(|error| Error::file(&path)(error.error))?;
        fs::write(store.join(format!("{key}.sha256")), &sha256).map_err(Error::file(store))?;
        Ok(StoredLayer { path, size: out.size, sha256 })
    }

    fn write(&self, out: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        for (path, entry) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.0);
            header.set_gid(entry.owner.1);
            header.set_mtime(0);
            header.set_size(0);
            match &entry.what {
                What::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    tar.append_data(&mut header, path.join(""), io::empty())?;
                }
                What::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
                What::Text(text) => {
                    header.set_size(text.len() as u64);
                    tar.append_data(&mut header, path, text.as_bytes())?;
                }
                What::File(source) => {
                    let in_source =
                        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", source.display()));
                    let file = File::open(source).map_err(in_source)?;
                    header.set_size(file.metadata().map_err(in_source)?.len());
                    tar.append_data(&mut header, path, file)?;
                }
            }
        }
        tar.finish()
    }
}

fn inside(path: &str) -> PathBuf {
    PathBuf::from(path.trim_matches('/'))
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_time_nor_order_nor_umask_of_the_source_matters() {
        let store = tempfile::tempdir().unwrap();
        let digest = |names: &[&str], mode: u32| {
            let source = tempfile::tempdir().unwrap();
            for name in names {
                let file = source.path().join(name);
                fs::write(&file, name).unwrap();
                fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
            }
            Layer::of_folder(source.path(), Path::new("opt"), Modes::Usual)
                .unwrap()
                .store(store.path(), None)
                .unwrap()
                .sha256
        };
        assert_eq!(digest(&["a", "b", "c"], 0o644), digest(&["c", "a", "b"], 0o600));
        assert_ne!(digest(&["a"], 0o644), digest(&["a"], 0o755));
        assert_ne!(digest(&["a"], 0o644), digest(&["b"], 0o644));
    }

    #[test]
    fn parents_are_made_and_owners_kept() {
        let store = tempfile::tempdir().unwrap();
        let mut layer = Layer::default();
        layer.folder("/var/lib/data", 0o700, (65532, 65532));
        let stored = layer.store(store.path(), None).unwrap();
        let mut archive = tar::Archive::new(File::open(stored.path).unwrap());
        let entries: Vec<(String, u64, u32)> = archive
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .map(|e| {
                let header = e.header();
                (e.path().unwrap().display().to_string(), header.uid().unwrap(), header.mode().unwrap())
            })
            .collect();
        let wanted = [("var/", 0, 0o755), ("var/lib/", 0, 0o755), ("var/lib/data/", 65532, 0o700)];
        assert_eq!(entries, wanted.map(|(path, uid, mode)| (path.to_owned(), uid, mode)));
    }
}

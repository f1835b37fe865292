//! Many small files into few objects: which files, in which order, and the bytes of one pack. A request for each file would take
//! longer than its bytes.
//!
//! What is packed follows from the output alone, never from the store or the moment: equal content has an equal manifest.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use step_protocol::{ManifestFile, Pack, Packed, paths};

use super::walk::{self, FoundFile};
use crate::beneath;
use crate::digest;
use crate::failure::Failure;
use crate::store::PART;

/// Files are packed when an output has so many that are small.
const MANY: usize = 256;
/// Bytes of the largest small file.
const SMALL: u64 = 256 << 10;
/// Most files of a pack, so that those who write empty files by the thousand have more than one, too: packs are read at the same
/// time.
const MOST: usize = 1024;
/// The type whose files are never packed: model servers read them by name.
const NEVER: &str = "Model";

/// What is sent with one request, or with the requests of one large file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parcel {
    /// An object of its own.
    File(FoundFile),
    /// The pack of this place in the manifest's list.
    Pack { index: usize, files: Vec<FoundFile>, size: u64 },
}

impl Parcel {
    /// The key below the output's prefix.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(file) => paths::object_name(&file.path),
            Self::Pack { index, .. } => paths::pack_name(*index),
        }
    }

    /// What the manifest says of it, if it is a pack.
    pub(super) fn pack(&self) -> Option<Pack> {
        match self {
            Self::File(_) => None,
            Self::Pack { index, size, .. } => Some(Pack { name: paths::pack_name(*index), size: *size }),
        }
    }
}

/// Puts the files of a directory, which are sorted by path, into parcels.
pub(super) fn parcels(kind: Option<&str>, directory: bool, files: Vec<FoundFile>) -> Vec<Parcel> {
    let small = |file: &FoundFile| file.size <= SMALL;
    if !directory || kind == Some(NEVER) || files.iter().filter(|file| small(file)).count() < MANY {
        return files.into_iter().map(Parcel::File).collect();
    }
    let mut parcels = Vec::new();
    let mut packs = Packs { parcels: Vec::new(), files: Vec::new(), size: 0 };
    for file in files {
        if small(&file) { packs.add(file) } else { parcels.push(Parcel::File(file)) }
    }
    packs.close();
    parcels.append(&mut packs.parcels);
    parcels
}

/// Packs, the last of which is open.
struct Packs {
    parcels: Vec<Parcel>,
    files: Vec<FoundFile>,
    size: u64,
}

impl Packs {
    fn add(&mut self, file: FoundFile) {
        if self.size + file.size > PART || self.files.len() == MOST {
            self.close();
        }
        self.size += file.size;
        self.files.push(file);
    }

    fn close(&mut self) {
        let (index, files, size) = (self.parcels.len(), std::mem::take(&mut self.files), self.size);
        self.size = 0;
        if !files.is_empty() {
            self.parcels.push(Parcel::Pack { index, files, size });
        }
    }
}

/// Writes the files of a pack below `root` into `buffer`, one after the other. `at` is what the root is called in messages.
pub(super) fn fill(
    root: BorrowedFd<'_>,
    index: usize,
    files: Vec<FoundFile>,
    at: &Path,
    buffer: &mut Vec<u8>,
) -> Result<Vec<ManifestFile>, Failure> {
    files.into_iter().map(|file| append(root, index, file, at, buffer)).collect()
}

fn append(
    root: BorrowedFd<'_>,
    pack: usize,
    file: FoundFile,
    at: &Path,
    buffer: &mut Vec<u8>,
) -> Result<ManifestFile, Failure> {
    let FoundFile { path, size, executable } = file;
    let failed = |error: std::io::Error| Failure::io("read", &at.join(&path), &error);
    let opened = beneath::open(root, &path, OFlags::RDONLY, Mode::empty()).map_err(|error| failed(error.into()))?;
    let offset = buffer.len();
    // One byte more than there was: a file that grows would else be cut without a word.
    File::from(opened).take(size + 1).read_to_end(buffer).map_err(failed)?;
    let bytes = &buffer[offset..];
    if bytes.len() as u64 != size {
        return Err(walk::changed(&at.join(&path), size));
    }
    let digest = digest::sha256(bytes);
    Ok(ManifestFile { path, size, digest, executable, packed: Some(Packed { pack, offset: offset as u64 }) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use step_protocol::Outcome;

    use super::*;

    fn files(count: usize, size: u64) -> Vec<FoundFile> {
        (0..count).map(|n| FoundFile { path: format!("{n:05}"), size, executable: false }).collect()
    }

    fn packs(parcels: &[Parcel]) -> Vec<(usize, usize, u64)> {
        let pack = |parcel: &Parcel| match parcel {
            Parcel::Pack { index, files, size } => Some((*index, files.len(), *size)),
            Parcel::File(_) => None,
        };
        parcels.iter().filter_map(pack).collect()
    }

    #[test]
    fn few_files_large_files_single_files_and_models_stay_objects() {
        for (kind, directory, files) in [
            (None, true, files(MANY - 1, 10)),
            (None, true, files(2 * MANY, SMALL + 1)),
            (Some("Model"), true, files(2 * MANY, 10)),
            (None, false, files(1, 10)),
            (None, true, Vec::new()),
        ] {
            let count = files.len();
            let parcels = parcels(kind, directory, files);
            assert_eq!((parcels.len(), packs(&parcels).len()), (count, 0));
        }
    }

    #[test]
    fn many_small_files_are_packed_and_the_large_ones_among_them_are_not() {
        let mut all = files(MANY, 10);
        all.insert(7, FoundFile { path: "00006x".into(), size: SMALL + 1, executable: true });
        let parcels = parcels(Some("Dataset"), true, all);
        assert_eq!(packs(&parcels), [(0, MANY, 10 * MANY as u64)]);
        assert!(matches!(&parcels[0], Parcel::File(file) if file.path == "00006x" && file.executable));
        assert_eq!(parcels.len(), 2);
    }

    #[test]
    fn a_pack_is_no_larger_than_a_part_and_has_no_more_files_than_it_may() {
        let sizes = packs(&parcels(None, true, files(10_000, 10 << 10)));
        assert_eq!(sizes.len(), 13);
        assert!(sizes.iter().all(|(_, _, size)| *size <= PART));
        let full = PART / SMALL;
        let of_full = packs(&parcels(None, true, files(MANY, SMALL)));
        assert!(of_full.iter().all(|(_, count, size)| (*count as u64, *size) == (full, PART)), "{of_full:?}");
        assert_eq!(packs(&parcels(None, true, files(2 * MOST + 1, 0))), [(0, MOST, 0), (1, MOST, 0), (2, 1, 0)]);
    }

    #[test]
    fn a_pack_has_the_bytes_of_its_files_and_says_where() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        for (path, bytes) in [("a", "one"), ("d/b", ""), ("d/c", "two")] {
            std::fs::write(folder.path().join(path), bytes).unwrap();
        }
        let root = beneath::open_root(folder.path()).unwrap();
        let found = |path: &str, size| FoundFile { path: path.into(), size, executable: path == "a" };
        let mut buffer = Vec::new();
        let files = vec![found("a", 3), found("d/b", 0), found("d/c", 3)];
        let packed = fill(root.as_fd(), 4, files, folder.path(), &mut buffer).unwrap();
        assert_eq!(buffer, b"onetwo");
        let offsets: Vec<_> = packed.iter().map(|file| file.packed.map(|at| (at.pack, at.offset))).collect();
        assert_eq!(offsets, [Some((4, 0)), Some((4, 3)), Some((4, 3))]);
        assert_eq!(packed[2].digest, digest::sha256(b"two"));
        assert!(packed[0].executable && !packed[2].executable);
        for size in [2, 4] {
            let error = fill(root.as_fd(), 0, vec![found("d/c", size)], folder.path(), &mut Vec::new()).unwrap_err();
            assert_eq!(error.outcome, Outcome::OutputUnsafe);
            assert!(error.message.contains("d/c had"), "{error}");
        }
    }
}

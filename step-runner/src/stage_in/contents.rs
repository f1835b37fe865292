//! What is to be fetched of an output, from a manifest that nothing is believed of.

use std::collections::BTreeSet;

use step_protocol::{Manifest, ManifestFile, Pack, Packed};

use crate::beneath;
use crate::store::PART;

/// Most files that are unpacked in one go.
const MOST: usize = 1024;

/// The files of an output: every path is one below the input, none twice or below another file, and what is packed lies in its pack.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) directory: bool,
    /// Those that are objects of their own.
    pub(super) files: Vec<ManifestFile>,
    pub(super) ranges: Vec<Range>,
}

/// A part of a pack that is fetched with one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// The pack's key below the output's prefix.
    pub(super) pack: String,
    /// Its first byte in the pack.
    pub(super) start: u64,
    /// The byte after its last.
    pub(super) end: u64,
    /// The files in it: each lies between start and end.
    pub(super) files: Vec<(u64, ManifestFile)>,
}

impl Contents {
    /// Checks the manifest of the output of that name.
    pub(super) fn of(manifest: Manifest, output: &str) -> Result<Self, String> {
        check(&manifest, output)?;
        let Manifest { version: _, directory, files, packs } = manifest;
        let mut alone = Vec::new();
        let mut packed = Vec::new();
        for file in files {
            match file.packed {
                None => alone.push(file),
                Some(at) => packed.push((at, file)),
            }
        }
        Ok(Self { directory, files: alone, ranges: ranges(&packs, packed)? })
    }
}

fn check(manifest: &Manifest, output: &str) -> Result<(), String> {
    if manifest.version > step_protocol::VERSION {
        return Err(format!("it has protocol version {}", manifest.version));
    }
    if !manifest.directory && manifest.files.len() != 1 {
        return Err(format!("it is of a single file and lists {}", manifest.files.len()));
    }
    if !manifest.directory && !manifest.packs.is_empty() {
        return Err("it is of a single file and has packs".to_owned());
    }
    for pack in &manifest.packs {
        beneath::check_relative(&pack.name).map_err(|why| format!("the pack {:?}: {why}", pack.name))?;
    }
    let mut seen = BTreeSet::new();
    for file in &manifest.files {
        beneath::check_relative(&file.path).map_err(|why| format!("the path {:?}: {why}", file.path))?;
        if !seen.insert(file.path.as_str()) {
            return Err(format!("the path {:?} is listed twice", file.path));
        }
    }
    if !manifest.directory && !seen.contains(output) {
        return Err(format!("its single file is not called {output:?}"));
    }
    for path in &seen {
        let mut above = *path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            if seen.contains(parent) {
                return Err(format!("the path {path:?} is below the file {parent:?}"));
            }
            above = parent;
        }
    }
    Ok(())
}

/// Cuts what is packed into requests, none for more than a part's bytes.
fn ranges(packs: &[Pack], mut packed: Vec<(Packed, ManifestFile)>) -> Result<Vec<Range>, String> {
    packed.sort_by_key(|(at, file)| (at.pack, at.offset, file.size));
    let mut ranges: Vec<Range> = Vec::new();
    let mut last = None;
    for (Packed { pack: index, offset }, file) in packed {
        let path = &file.path;
        let pack =
            packs.get(index).ok_or_else(|| format!("the file {path:?} is in pack {index} of {}", packs.len()))?;
        let end = offset.checked_add(file.size).filter(|end| *end <= pack.size);
        let end = end.ok_or_else(|| format!("the file {path:?} ends beyond its pack {:?}", pack.name))?;
        if file.size > PART {
            return Err(format!("the file {path:?} is packed and larger than {} MiB", PART >> 20));
        }
        let range = ranges.last_mut().filter(|_| last == Some(index));
        if let Some(range) = &range
            && offset < range.end
        {
            return Err(format!("the file {path:?} overlaps another one in its pack {:?}", pack.name));
        }
        last = Some(index);
        match range.filter(|range| end - range.start <= PART && range.files.len() < MOST) {
            Some(range) => {
                range.end = end;
                range.files.push((offset, file));
            }
            None => {
                ranges.push(Range { pack: pack.name.clone(), start: offset, end, files: vec![(offset, file)] });
            }
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(directory: bool, paths: &[&str]) -> Manifest {
        let file = |path: &&str| ManifestFile {
            path: (*path).to_owned(),
            size: 0,
            digest: String::new(),
            executable: false,
            packed: None,
        };
        Manifest { version: 1, directory, files: paths.iter().map(file).collect(), packs: Vec::new() }
    }

    /// A manifest with packs of these sizes and files of these packs, offsets and sizes.
    fn packed(packs: &[u64], files: &[(usize, u64, u64)]) -> Manifest {
        let pack = |(index, size): (usize, &u64)| Pack { name: step_protocol::paths::pack_name(index), size: *size };
        let file = |(n, (pack, offset, size)): (usize, &(usize, u64, u64))| ManifestFile {
            path: format!("{n}"),
            size: *size,
            digest: String::new(),
            executable: false,
            packed: Some(Packed { pack: *pack, offset: *offset }),
        };
        Manifest {
            version: 1,
            directory: true,
            files: files.iter().enumerate().map(file).collect(),
            packs: packs.iter().enumerate().map(pack).collect(),
        }
    }

    #[test]
    fn hostile_manifests_are_refused() {
        for (paths, why) in [
            (&["../x"][..], "`..`"),
            (&["/etc/passwd"], "absolute"),
            (&["a//b"], "empty"),
            (&["a", "a"], "twice"),
            (&["a/b", "a"], "below the file"),
            (&["a/b/c/d", "a/b"], "below the file"),
        ] {
            let refused = Contents::of(manifest(true, paths), "out").unwrap_err();
            assert!(refused.contains(why), "{paths:?}: {refused}");
        }
        assert!(Contents::of(manifest(false, &["other"]), "out").is_err());
        assert!(Contents::of(manifest(false, &["out", "other"]), "out").is_err());
        for (directory, paths) in [(false, &["out"][..]), (true, &["a/b", "a.b", "a-b/c"]), (true, &[])] {
            let contents = Contents::of(manifest(directory, paths), "out").unwrap();
            assert_eq!((contents.files.len(), contents.ranges.len()), (paths.len(), 0));
        }
    }

    #[test]
    fn hostile_packs_are_refused() {
        for (packs, files, why) in [
            (&[10][..], &[(0, 8, 3)][..], "beyond"),
            (&[10], &[(0, 11, 0)], "beyond"),
            (&[u64::MAX], &[(0, u64::MAX, 1)], "beyond"),
            (&[u64::MAX], &[(0, 1, u64::MAX)], "beyond"),
            (&[10], &[(1, 0, 1)], "pack 1 of 1"),
            (&[], &[(usize::MAX, 0, 1)], "of 0"),
            (&[10], &[(0, 0, 5), (0, 4, 2)], "overlaps"),
            (&[10], &[(0, 4, 2), (0, 0, 5)], "overlaps"),
            (&[10], &[(0, 0, 9), (0, 3, 0)], "overlaps"),
            (&[10], &[(0, 0, 5), (0, 0, 5)], "overlaps"),
            (&[u64::MAX], &[(0, 0, PART + 1)], "larger"),
        ] {
            let refused = Contents::of(packed(packs, files), "out").unwrap_err();
            assert!(refused.contains(why), "{packs:?} {files:?}: {refused}");
        }
        for name in ["../COMMIT", "/etc/passwd", "", "a//b", "a/../../b"] {
            let mut manifest = packed(&[10], &[(0, 0, 1)]);
            manifest.packs[0].name = name.into();
            let refused = Contents::of(manifest, "out").unwrap_err();
            assert!(refused.contains("the pack"), "{name:?}: {refused}");
        }
        let mut single = packed(&[10], &[(0, 0, 1)]);
        single.directory = false;
        single.files[0].path = "out".into();
        assert!(Contents::of(single, "out").unwrap_err().contains("has packs"));
    }

    #[test]
    fn overlaps_are_found_across_the_cuts() {
        let refused = Contents::of(packed(&[u64::MAX], &[(0, 0, PART), (0, PART - 1, 2)]), "out").unwrap_err();
        assert!(refused.contains("overlaps"), "{refused}");
    }

    #[test]
    fn a_pack_is_cut_into_requests_of_a_part_at_most() {
        let half = PART / 2;
        let files =
            [(1, 3 * half, 5), (0, 0, half), (0, half, half), (0, 2 * half, half), (0, PART << 20, 1), (1, 0, 0)];
        let contents = Contents::of(packed(&[u64::MAX, PART * 2], &files), "out").unwrap();
        let cut: Vec<_> = contents
            .ranges
            .iter()
            .map(|range| (range.pack.as_str(), range.start, range.end, range.files.len()))
            .collect();
        let expected = [
            ("%pack-00000", 0, PART, 2),
            ("%pack-00000", PART, PART + half, 1),
            ("%pack-00000", PART << 20, (PART << 20) + 1, 1),
            ("%pack-00001", 0, 0, 1),
            ("%pack-00001", 3 * half, 3 * half + 5, 1),
        ];
        assert_eq!(cut, expected);
    }

    #[test]
    fn empty_files_without_an_end_are_cut_as_well() {
        let files: Vec<_> = (0..MOST + 1).map(|_| (0, 0, 0)).collect();
        let contents = Contents::of(packed(&[0], &files), "out").unwrap();
        assert_eq!(contents.ranges.iter().map(|range| range.files.len()).collect::<Vec<_>>(), [MOST, 1]);
    }
}

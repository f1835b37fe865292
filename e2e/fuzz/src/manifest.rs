//! A manifest: what is taken stays below the input's directory, and within its packs.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use step_protocol::{Manifest, paths};

use crate::contents::Contents;
use crate::there_and_back;

/// Any bytes.
pub fn run(data: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(data) else { return };
    there_and_back(&manifest);
    let names: BTreeSet<String> = manifest.packs.iter().map(|pack| pack.name.clone()).collect();
    for output in ["data", "", ".."] {
        let Ok(contents) = Contents::of(manifest.clone(), output) else { continue };
        let packed = contents.ranges.iter().flat_map(|range| range.files.iter().map(|(_, file)| file));
        let files: Vec<_> = contents.files.iter().chain(packed).collect();
        assert_eq!(files.len(), manifest.files.len());
        let seen: BTreeSet<&Path> = files.iter().map(|file| Path::new(file.path.as_str())).collect();
        assert_eq!(seen.len(), files.len(), "a path twice");
        for path in &seen {
            assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
            let mut above = path.ancestors().skip(1).filter(|above| *above != Path::new(""));
            assert!(above.all(|above| !seen.contains(above)), "{path:?}");
        }
        for file in &contents.files {
            assert!(!paths::object_name(&file.path).is_empty());
        }
        for range in &contents.ranges {
            assert!(names.contains(&range.pack) && range.start <= range.end);
            for (offset, file) in &range.files {
                assert!(*offset >= range.start && offset.checked_add(file.size).is_some_and(|end| end <= range.end));
            }
        }
    }
}

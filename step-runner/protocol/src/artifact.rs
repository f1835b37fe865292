//! What lies in the store: one manifest per output, one commit record per stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The record that makes a stage's result count: written once per stage with put-if-absent, at
/// [`crate::paths::commit_key`]. In the store its first field is `checksum`: `sha256:` of the record's bytes with zeros for the
/// digits. It is about the bytes and not a part of what the record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitRecord {
    /// [`crate::VERSION`] of the runner that wrote it.
    pub version: u32,
    /// UID of the PipelineRun.
    pub run_uid: String,
    /// Name of the stage.
    pub stage: String,
    /// The winning attempt.
    pub attempt: u32,
    /// Every declared output.
    #[serde(default)]
    pub outputs: Vec<CommittedOutput>,
    /// Every declared result, by name.
    #[serde(default)]
    pub results: BTreeMap<String, Value>,
    /// The last value of every metric without `fold` or `slice`, by name. NaN and infinities are the strings
    /// `"NaN"`, `"Infinity"`, `"-Infinity"`.
    #[serde(default)]
    pub metrics: BTreeMap<String, Value>,
    /// Start of the user's process, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// End of the user's process, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
}

/// One output of a committed stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommittedOutput {
    /// Its name.
    pub name: String,
    /// Its type, as declared.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Below the store: where its manifest and files lie.
    pub prefix: String,
    /// `sha256:<hex>` of the manifest's bytes; equal content means an equal digest.
    pub digest: String,
    /// Sum of its files' sizes.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
}

/// The files of one output, sorted by path. Its JSON bytes are what the output's digest is taken over.
///
/// Most files are objects of their own, below the output's prefix at [`crate::paths::object_name`]. Many small ones are packed: they
/// lie one after the other in a few objects that `packs` lists, and each says by `packed` where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`crate::VERSION`] of the runner that wrote it.
    pub version: u32,
    /// Whether the output is one file, then placed as `<root>/in/<name>` itself, or a directory.
    pub directory: bool,
    /// The files.
    pub files: Vec<ManifestFile>,
    /// The objects that hold packed files; absent where each file is an object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<Pack>,
}

/// One file of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFile {
    /// Relative path with `/`, no `.` or `..` parts; for a single file its name is that of the output.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// `sha256:<hex>`.
    pub digest: String,
    /// Whether any executable bit was set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
    /// Where it lies in a pack; absent for a file that is an object of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
}

/// An object that holds the bytes of many files, one after the other and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pack {
    /// Its key below the output's prefix, see [`crate::paths::pack_name`].
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// Where a file lies in a pack: its bytes are those from `offset`, as many as its size says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packed {
    /// The place of the pack in the manifest's list, from 0.
    pub pack: usize,
    /// Bytes before it in the pack.
    pub offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As runners wrote it that knew no packs.
    const OLD: &str =
        r#"{"version":1,"directory":true,"files":[{"path":"a","size":1,"digest":"sha256:00","executable":true}]}"#;

    #[test]
    fn a_manifest_without_packs_reads_and_writes_as_ever() {
        let manifest: Manifest = serde_json::from_str(OLD).unwrap();
        assert_eq!((manifest.packs.len(), manifest.files[0].packed), (0, None));
        assert_eq!(serde_json::to_string(&manifest).unwrap(), OLD);
    }

    #[test]
    fn a_packed_file_says_where() {
        let text = r#"{"version":1,"directory":true,"files":[{"path":"a","size":1,"digest":"sha256:00","packed":{"pack":0,"offset":7}}],"packs":[{"name":"%pack-00000","size":8}]}"#;
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!(manifest.files[0].packed, Some(Packed { pack: 0, offset: 7 }));
        assert_eq!(manifest.packs, [Pack { name: crate::paths::pack_name(0), size: 8 }]);
        assert_eq!(serde_json::to_string(&manifest).unwrap(), text);
    }
}

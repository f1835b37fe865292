//! What an image consists of, as `deploy/images/<name>.toml` says it. Pure.

use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;

/// A recipe whose parts fit together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The last part of the image's name.
    pub name: String,
    /// The version, never `latest`. Without it: that of the workspace.
    #[serde(default = "workspace_version")]
    pub tag: String,
    /// `uid:gid` of its processes.
    pub user: String,
    /// Where they start.
    #[serde(default = "root")]
    pub workdir: String,
    /// Variables of the environment; without `PATH`, the usual one.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The program.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program when there is no entrypoint.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Whether it has a shell and the usual small programs.
    #[serde(default)]
    pub busybox: bool,
    /// Debian packages, unpacked and not installed; all that they need is listed, too.
    #[serde(default)]
    pub debs: Vec<String>,
    /// Python packages.
    pub wheels: Option<Wheels>,
    /// Programs that are built.
    #[serde(default)]
    pub binaries: Vec<Binary>,
    /// Files and folders of the repository.
    #[serde(default)]
    pub files: Vec<File>,
    /// Folders.
    #[serde(default)]
    pub directories: Vec<Folder>,
    /// Symbolic links.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Paths that are left out of packages and wheels; `a/**/b` is every folder `b` below `a`.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// Python packages of a requirements file with hashes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheels {
    /// The requirements file, from the repository's root.
    pub requirements: String,
    /// The image's Python, such as `3.11`.
    pub python: String,
    /// Where the packages go.
    pub to: String,
    /// Where programs and libraries go that are not Python's, such as `/usr/local`. Without it they are left out.
    pub data: Option<String>,
}

/// A static program: of ours, or of a Go module of `e2e/cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binary {
    /// A package of this workspace.
    pub cargo: Option<String>,
    /// A product.
    pub go: Option<String>,
    /// Path in the image.
    pub to: String,
}

/// A file or a folder with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// From the repository's root.
    pub from: String,
    /// Path in the image.
    pub to: String,
    /// Permissions of a file. In a folder, all is readable, and executable what is so.
    #[serde(default = "readable")]
    pub mode: Permissions,
}

/// A folder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// Path in the image.
    pub path: String,
    /// Permissions.
    #[serde(default = "searchable")]
    pub mode: Permissions,
    /// Whether it belongs to the image's user.
    #[serde(default)]
    pub owned: bool,
}

/// A symbolic link.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Path in the image.
    pub path: String,
    /// Where it leads.
    pub target: String,
}

/// Permissions, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(pub u32);

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("`{text}` are no permissions in octal, such as \"0644\"")))
    }
}

fn workspace_version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn root() -> String {
    "/".to_owned()
}

fn readable() -> Permissions {
    Permissions(0o644)
}

fn searchable() -> Permissions {
    Permissions(0o755)
}

impl Recipe {
    /// Reads a recipe; the error says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let recipe: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.name.is_empty() || !self.name.bytes().all(plain) {
            return Err(format!("name `{}`: only a-z, 0-9 and - can be in it", self.name));
        }
        if self.tag.is_empty() || self.tag == "latest" {
            return Err("tag: a version is needed; `latest` is none".to_owned());
        }
        if self.owner_ids().is_none() {
            return Err(format!(
                "user `{}`: numbers as `65532:65532` are needed; Kubernetes cannot check names",
                self.user
            ));
        }
        if self.entrypoint.is_empty() && self.cmd.is_empty() {
            return Err("entrypoint or cmd is needed".to_owned());
        }
        if let Some(binary) = self.binaries.iter().find(|binary| binary.cargo.is_some() == binary.go.is_some()) {
            return Err(format!("binaries: {} needs either `cargo` or `go`", binary.to));
        }
        let paths = self.binaries.iter().map(|b| &b.to).chain(self.files.iter().map(|f| &f.to));
        let paths = paths.chain(self.directories.iter().map(|d| &d.path)).chain(self.links.iter().map(|l| &l.path));
        match paths.chain([&self.workdir]).find(|path| !is_absolute(path)) {
            Some(path) => Err(format!("path `{path}`: it must begin with / and have no . or .. in it")),
            None => Ok(()),
        }
    }

    /// `localhost/trainyard/<name>:<tag>`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("localhost/trainyard/{}:{}", self.name, self.tag)
    }

    fn owner_ids(&self) -> Option<(u64, u64)> {
        let (user, group) = self.user.split_once(':')?;
        Some((user.parse().ok()?, group.parse().ok()?))
    }

    /// User and group of something in the image.
    pub(super) fn owner(&self, owned: bool) -> (u64, u64) {
        if owned { self.owner_ids().unwrap_or_default() } else { (0, 0) }
    }
}

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.split('/').any(|part| part == "." || part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"a\"\nuser = \"1:1\"\ncmd = [\"sh\"]\n";

    fn complaint(change: &str) -> String {
        Recipe::parse(&format!("{LEAST}{change}")).unwrap_err()
    }

    #[test]
    fn the_least_recipe() {
        let recipe = Recipe::parse(LEAST).unwrap();
        assert_eq!(recipe.reference(), format!("localhost/trainyard/a:{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(recipe.workdir, "/");
    }

    #[test]
    fn parts_are_read() {
        let text = "[[binaries]]\ngo = \"versitygw\"\nto = \"/versitygw\"\n\
                    [[directories]]\npath = \"/data\"\nmode = \"1777\"\nowned = true\n";
        let recipe = Recipe::parse(&format!("{LEAST}{text}")).unwrap();
        assert_eq!(recipe.directories[0].mode, Permissions(0o1777));
        assert_eq!(recipe.owner(true), (1, 1));
        assert_eq!(recipe.binaries[0].go.as_deref(), Some("versitygw"));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(complaint("tag = \"latest\"").contains("latest"));
        assert!(complaint("usr = \"1\"").contains("usr"));
        assert!(complaint("workdir = \"tmp\"").contains("`tmp`"));
        assert!(complaint("[[directories]]\npath = \"/a/../b\"").contains("/a/../b"));
        assert!(complaint("[[binaries]]\nto = \"/x\"").contains("/x"));
        assert!(complaint("[[directories]]\npath = \"/d\"\nmode = \"rwx\"").contains("octal"));
        let named = Recipe::parse("name = \"a\"\nuser = \"nobody\"\ncmd = [\"sh\"]\n").unwrap_err();
        assert!(named.contains("nobody"), "{named}");
    }
}

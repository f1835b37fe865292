//! Images without a container engine: a recipe of `deploy/images` becomes an OCI archive.
//!
//! The same recipe, programs and packages give the same digest on every machine: entries are sorted, belong to root and
//! bear no time. Large layers (packages, wheels) are kept in the cache by what went into them.

mod debs;
mod layer;
mod load;
mod oci;
pub mod recipe;
mod wheels;

pub(crate) use load::import;
pub use load::{Destination, load};
pub use recipe::Recipe;

use crate::build::{self, Product};
use crate::paths::{self, Directories};
use crate::{command, progress};
use layer::{Layer, Modes, StoredLayer};
use std::fs;
use std::path::{Path, PathBuf};

/// An image could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error("no image is called {name}\nhint: one of {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The recipe is not well-formed.
    #[error("{path}: {message}", path = path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with its place.
        message: String,
    },
    /// A program that goes into the image could not be built.
    #[error("image {image}: {source}")]
    Build {
        /// The image.
        image: String,
        /// Why.
        source: Box<build::Error>,
    },
    /// A program that fetches, unpacks or loads failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// A file could not be read or written.
    #[error("failed to use {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The cluster is neither ours nor kind's, and no registry is named.
    #[error(
        "images cannot be brought to the cluster of context {0}\n\
         hint: set TRAINYARD_REGISTRY to a registry that it pulls from"
    )]
    NoWay(String),
    /// apt knows no such package.
    #[error("apt offers nothing for {0}\nhint: `apt-get update`; the recipe's packages are those of Debian 12")]
    NoPackage(String),
}

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// An image in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `localhost/trainyard/<name>:<tag>`.
    pub reference: String,
    /// Of the manifest: `sha256:...`.
    pub digest: String,
    /// An OCI layout as a tar file.
    pub archive: PathBuf,
}

/// The folder of the recipes.
#[must_use]
pub fn recipes() -> PathBuf {
    paths::repository().join("deploy/images")
}

/// The names of all images.
pub fn names() -> Result<Vec<String>, Error> {
    let folder = recipes();
    let entries = fs::read_dir(&folder).map_err(Error::file(&folder))?;
    let name = |path: PathBuf| {
        let is_recipe = path.extension().is_some_and(|extension| extension == "toml");
        is_recipe.then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned())).flatten()
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| name(entry.path())).collect();
    names.sort();
    Ok(names)
}

/// Reads the recipe of that name.
pub fn recipe(name: &str) -> Result<Recipe, Error> {
    let path = recipes().join(format!("{name}.toml"));
    let known = names()?;
    if !known.iter().any(|other| other == name) {
        return Err(Error::Unknown { name: name.to_owned(), known: known.join(", ") });
    }
    let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
    Recipe::parse(&text).map_err(|message| Error::Recipe { path, message })
}

/// Makes the archive of an image, unless what is in the cache is the same already.
pub fn build(name: &str) -> Result<Image, Error> {
    build_recipe(&Directories::from_env(), &recipe(name)?)
}

/// [`build()`] for any recipe and any cache.
pub fn build_recipe(directories: &Directories, recipe: &Recipe) -> Result<Image, Error> {
    let mut layers = Vec::new();
    if recipe.busybox || !recipe.debs.is_empty() {
        layers.push(packages_layer(directories, recipe)?);
    }
    if let Some(wheels) = &recipe.wheels {
        layers.push(wheels::layer(directories, recipe, wheels)?);
    }
    let own = own_layer(directories, recipe)?;
    if !own.is_empty() {
        layers.push(own.store(&directories.cache.join("layers"), None)?);
    }
    oci::write(recipe, &layers, &directories.cache.join("images"))
}

fn packages_layer(directories: &Directories, recipe: &Recipe) -> Result<StoredLayer, Error> {
    let mut names = recipe.debs.clone();
    if recipe.busybox {
        names.push(debs::BUSYBOX.to_owned());
    }
    let debs = debs::fetch(&directories.cache.join("debs"), &names)?;
    let key = layer::key(&[&format!("{:?}", recipe.remove), &recipe.busybox.to_string()], &debs)?;
    let store = directories.cache.join("layers");
    if let Some(stored) = StoredLayer::find(&store, &key) {
        return Ok(stored);
    }
    progress::step(&format!("image {}: {} Debian packages", recipe.name, debs.len()), || {
        let root = tempfile::tempdir_in(ensured(&directories.cache)?).map_err(Error::file(&directories.cache))?;
        debs.iter().try_for_each(|deb| debs::unpack(deb, root.path()))?;
        if recipe.busybox {
            debs::link_applets(root.path())?;
        }
        recipe.remove.iter().try_for_each(|path| remove(root.path(), path))?;
        Layer::of_folder(root.path(), Path::new(""), Modes::Kept)?.with_system_files().store(&store, Some(&key))
    })
}

/// The recipe's own programs, files, folders and links.
fn own_layer(directories: &Directories, recipe: &Recipe) -> Result<Layer, Error> {
    let failed = |source| Error::Build { image: recipe.name.clone(), source: Box::new(source) };
    let mut layer = Layer::default();
    for folder in &recipe.directories {
        layer.folder(&folder.path, folder.mode.0, recipe.owner(folder.owned));
    }
    for binary in &recipe.binaries {
        let source = match (&binary.cargo, &binary.go) {
            (Some(name), None) => build::static_binary(name).map_err(failed)?,
            (None, Some(name)) => {
                let product = Product::named(name).ok_or_else(|| failed(build::Error::UnknownBinary(name.clone())))?;
                product.ensure(directories).map_err(failed)?.join(name)
            }
            _ => unreachable!("checked by `Recipe::parse`"),
        };
        layer.file(&binary.to, source, 0o755);
    }
    for file in &recipe.files {
        let source = paths::repository().join(&file.from);
        if source.is_dir() {
            layer.extend(Layer::of_folder(&source, Path::new(file.to.trim_start_matches('/')), Modes::Usual)?);
        } else {
            layer.file(&file.to, source, file.mode.0);
        }
    }
    for link in &recipe.links {
        layer.link(&link.path, &link.target);
    }
    Ok(layer)
}

/// Removes `path`; of `a/**/b`, every folder `b` below `a`.
fn remove(root: &Path, path: &str) -> Result<(), Error> {
    let path = path.trim_start_matches('/');
    if let Some((above, name)) = path.split_once("/**/") {
        return remove_named(&root.join(above), name);
    }
    let target = root.join(path);
    let done =
        if target.is_dir() && !target.is_symlink() { fs::remove_dir_all(&target) } else { fs::remove_file(&target) };
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(target)(error)),
        _ => Ok(()),
    }
}

fn remove_named(folder: &Path, name: &str) -> Result<(), Error> {
    // Packages and wheels are unpacked apart: a pattern may speak of the others.
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(Error::file(folder))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            if entry.file_name().to_str() == Some(name) {
                fs::remove_dir_all(&path).map_err(Error::file(&path))?;
            } else {
                remove_named(&path, name)?;
            }
        }
    }
    Ok(())
}

fn ensured(folder: &Path) -> Result<&Path, Error> {
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    Ok(folder)
}

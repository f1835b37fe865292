//! Images: the same input gives the same digest, and recipes and Containerfiles say the same.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use e2e::image::{self, Recipe};
use e2e::paths::{self, Directories};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn cache(folder: &Path) -> Directories {
    Directories { state: folder.join("state"), cache: folder.join("cache") }
}

/// The image of the same recipe, made twice with nothing in common, as digests and bytes.
fn twice(recipe: &Recipe) -> [(String, Vec<u8>); 2] {
    [(); 2].map(|()| {
        let folder = tempfile::tempdir().unwrap();
        let image = image::build_recipe(&cache(folder.path()), recipe).unwrap();
        (image.digest, fs::read(image.archive).unwrap())
    })
}

#[test]
fn the_same_recipe_gives_the_same_bytes() {
    let text = r#"
        name = "twice"
        user = "65532:65532"
        cmd = ["none"]
        env = { B = "2", A = "1" }

        [[files]]
        from = "e2e/src"
        to = "/source"

        [[files]]
        from = "e2e/Cargo.toml"
        to = "/etc/e2e/Cargo.toml"
        mode = "0600"

        [[directories]]
        path = "/data"
        mode = "1777"
        owned = true

        [[links]]
        path = "/current"
        target = "source"
    "#;
    let [first, second] = twice(&Recipe::parse(text).unwrap());
    assert_eq!(first.0, second.0);
    assert!(first.1 == second.1, "the archives differ");
}

#[test]
fn debian_packages_give_the_same_bytes() {
    let [first, second] = twice(&image::recipe("busybox").unwrap());
    assert_eq!(first.0, second.0);
    assert!(first.1 == second.1, "the archives differ");
}

#[test]
fn a_change_changes_the_digest() {
    let folder = tempfile::tempdir().unwrap();
    let text = "name = \"a\"\nuser = \"1:1\"\ncmd = [\"x\"]\n";
    let digest = |text: &str| image::build_recipe(&cache(folder.path()), &Recipe::parse(text).unwrap()).unwrap().digest;
    assert_ne!(digest(text), digest(&text.replace("\"x\"", "\"y\"")));
}

#[test]
fn every_recipe_is_well_formed_and_named_like_its_file() {
    let names = image::names().unwrap();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        assert_eq!(image::recipe(&name).unwrap().name, name);
    }
}

/// What the last stage of a Containerfile says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    user: String,
    workdir: String,
    env: BTreeMap<String, String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    /// Paths in the image that are copied into it.
    copied: BTreeSet<String>,
    /// Everything else, to search in.
    text: String,
}

fn containerfile(name: &str) -> Said {
    let path = paths::repository().join(format!("deploy/{name}.Containerfile"));
    let text = fs::read_to_string(path).unwrap().replace("\\\n", " ");
    let mut said = Said::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((instruction, rest)) = line.split_once(' ') else { continue };
        match instruction {
            "FROM" => said = Said { text: text.clone(), ..Said::default() },
            "USER" => said.user = rest.to_owned(),
            "WORKDIR" => said.workdir = rest.to_owned(),
            "ENTRYPOINT" => said.entrypoint = serde_json::from_str(rest).unwrap(),
            "CMD" => said.cmd = serde_json::from_str(rest).unwrap(),
            "ENV" => {
                let (name, value) = rest.split_once('=').unwrap();
                said.env.insert(name.to_owned(), value.to_owned());
            }
            "COPY" => {
                said.copied.insert(rest.split_whitespace().last().unwrap().to_owned());
            }
            _ => {}
        }
    }
    said
}

/// Compares all but what is installed; returns the text for that.
fn assert_alike(name: &str) -> (Recipe, String) {
    let (recipe, said) = (image::recipe(name).unwrap(), containerfile(name.trim_start_matches("trainyard-")));
    let mut copied: BTreeSet<String> = recipe.binaries.iter().map(|binary| binary.to.clone()).collect();
    copied.extend(recipe.files.iter().map(|file| file.to.clone()));
    copied.extend(recipe.wheels.iter().flat_map(|wheels| wheels.data.iter().chain([&wheels.to])).cloned());
    let wanted = Said {
        user: recipe.user.clone(),
        workdir: recipe.workdir.clone(),
        env: recipe.env.clone(),
        entrypoint: recipe.entrypoint.clone(),
        cmd: recipe.cmd.clone(),
        copied,
        text: said.text.clone(),
    };
    assert_eq!(said, wanted, "{name}: Containerfile on the left, recipe on the right");
    (recipe, said.text)
}

#[test]
fn our_programs_are_packed_alike() {
    for (name, profile) in [("trainyard-operator", "release"), ("step-runner", "runner")] {
        let (recipe, text) = assert_alike(name);
        let program = recipe.binaries[0].cargo.clone().unwrap();
        assert!(text.contains(&format!("--profile {profile} --package {program} --bin {program} ")), "{name}");
        assert!(text.contains("+crt-static") && text.contains("FROM scratch\n"), "{name}");
    }
}

#[test]
fn the_examples_are_packed_alike() {
    for name in ["example-python", "example-training", "example-mpi"] {
        packed_alike(name);
    }
}

fn packed_alike(name: &str) {
    let (recipe, text) = assert_alike(name);
    let wheels = recipe.wheels.unwrap();
    assert!(text.contains(&format!("COPY {} /requirements.txt\n", wheels.requirements)));
    assert!(text.contains("--require-hashes") && text.contains(&format!("--target {} ", wheels.to)));
    let installed = text.rsplit("--no-install-recommends").next().unwrap().split("&&").next().unwrap();
    for package in installed.split_whitespace() {
        assert!(recipe.debs.iter().any(|deb| deb == package), "{package} is not in the recipe");
    }
    for link in &recipe.links {
        assert!(text.contains(&format!("ln -sf {} {}", link.target, link.path)), "{}", link.path);
    }
}

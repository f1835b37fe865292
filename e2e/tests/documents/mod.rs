//! The documents and their fenced blocks.

use std::path::{Path, PathBuf};

use e2e::paths;

/// A fenced block of a document.
pub(crate) struct Block {
    /// Where it begins, for messages.
    pub(crate) place: String,
    /// What stands after the fence.
    pub(crate) mark: String,
    pub(crate) text: String,
}

/// README.md and the documents below docs, as paths below the repository.
pub(crate) fn documents() -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![paths::repository().join("README.md")];
    collect(&paths::repository().join("docs"), &mut found);
    found.sort();
    found
}

pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(paths::repository()).unwrap_or(path).display().to_string()
}

pub(crate) fn blocks(path: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (line, number) in text.lines().zip(1..) {
        match line.strip_prefix("```") {
            Some(mark) if !open => {
                let place = format!("{}:{number}", shown(path));
                found.push(Block { place, mark: mark.trim().to_owned(), text: String::new() });
                open = true;
            }
            Some(_) => open = false,
            None if open => {
                let block = found.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    found
}

//! Which clusters exist on this machine, and which number each has.

use super::plan::{MAX_CLUSTERS, Plan, Port, is_cluster_name};
use super::{Error, Mode, network};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;

const FILE: &str = "cluster.json";

#[derive(Serialize, Deserialize)]
struct Entry {
    index: u8,
    mode: Mode,
}

/// Held while something about `name` changes; given back by dropping it.
pub(super) fn lock(clusters: &Path, name: &str) -> Result<File, Error> {
    fs::create_dir_all(clusters).map_err(Error::file(clusters))?;
    let path = clusters.join(format!(".{name}.lock"));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::file(&path))?;
    file.lock().map_err(Error::file(path))?;
    Ok(file)
}

/// The cluster of that name, if there is one.
pub(super) fn find(clusters: &Path, name: &str) -> Result<Option<(Plan, Mode)>, Error> {
    if !is_cluster_name(name) {
        return Err(Error::Name(name.to_owned()));
    }
    let folder = clusters.join(name);
    Ok(entry(&folder).map(|entry| (Plan::new(name, entry.index, folder), entry.mode)))
}

/// Gives the cluster `name` a number that nothing on this machine uses.
pub(super) fn add(clusters: &Path, name: &str, mode: Mode) -> Result<Plan, Error> {
    let _guard = lock(clusters, "")?;
    let taken: HashSet<u8> = fs::read_dir(clusters)
        .map_err(Error::file(clusters))?
        .flatten()
        .filter_map(|folder| entry(&folder.path()).map(|entry| entry.index))
        .collect();
    let folder = clusters.join(name);
    let plan = (0..MAX_CLUSTERS)
        .filter(|index| !taken.contains(index))
        .map(|index| Plan::new(name, index, folder.clone()))
        .find(is_free)
        .ok_or(Error::TooMany(MAX_CLUSTERS))?;
    write(&plan, mode)?;
    Ok(plan)
}

/// Forgets the cluster: its number is free again.
pub(super) fn remove(plan: &Plan) {
    let _ = fs::remove_file(plan.folder().join(FILE));
}

fn write(plan: &Plan, mode: Mode) -> Result<(), Error> {
    let path = plan.folder().join(FILE);
    fs::create_dir_all(plan.folder()).map_err(Error::file(plan.folder()))?;
    let text = serde_json::to_string(&Entry { index: plan.index(), mode }).unwrap_or_default();
    fs::write(&path, text).map_err(Error::file(path))
}

fn entry(folder: &Path) -> Option<Entry> {
    serde_json::from_str(&fs::read_to_string(folder.join(FILE)).ok()?).ok()
}

/// Clusters of another state folder are seen by their ports and links.
fn is_free(plan: &Plan) -> bool {
    let ports = [Port::ApiServer, Port::Etcd, Port::EtcdPeer];
    network::is_ours(plan) && ports.iter().all(|port| TcpListener::bind(("127.0.0.1", plan.port(*port))).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_get_different_numbers_and_give_them_back() {
        let folder = tempfile::tempdir().unwrap();
        let one = add(folder.path(), "one", Mode::Full).unwrap();
        let two = add(folder.path(), "two", Mode::Full).unwrap();
        assert_ne!(one.index(), two.index());
        assert_eq!(find(folder.path(), "two").unwrap(), Some((two, Mode::Full)));
        remove(&one);
        assert_eq!(find(folder.path(), "one").unwrap(), None);
        assert_eq!(add(folder.path(), "three", Mode::Full).unwrap().index(), one.index());
    }
}

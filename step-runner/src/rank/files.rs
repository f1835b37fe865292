//! The files that name the ranks: hosts, LightGBM's machines, MPI's hostfiles.

use std::path::Path;

use step_protocol::{Framework, RankSpec, paths};

use crate::failure::Failure;
use crate::layout;

/// Below the root: the hosts as MPICH reads them.
pub(super) const HOSTFILE_HYDRA: &str = "hostfile-hydra";
/// Below the root: the program that MPI calls in place of ssh, which is this one by another name.
pub(crate) const LAUNCH_AGENT: &str = "launch-agent";
/// Below the root: the socket by which it reaches its runner.
pub(super) const LAUNCH_SOCKET: &str = ".launch";

/// Writes what the framework reads. `addresses` are those of the ranks, as the start gate saw them; without it, their hosts.
pub(super) fn write(rank: &RankSpec, addresses: &[String], root: &Path) -> Result<(), Failure> {
    let put = |name: &str, text: String| layout::write(&root.join(name), text.as_bytes(), 0o644);
    put(paths::HOSTS, rank.hosts.iter().map(|host| format!("{host}\n")).collect())?;
    match rank.framework {
        Framework::LightGBM => put(paths::MACHINES, machines(rank, addresses)),
        Framework::MPI => {
            put(paths::HOSTFILE, slots(rank, " slots="))?;
            put(HOSTFILE_HYDRA, slots(rank, ":"))?;
            agent(root)
        }
        Framework::Torch | Framework::TensorFlow | Framework::JAX | Framework::XGBoost | Framework::None => Ok(()),
    }
}

/// LightGBM looks for its own entry among the addresses of its machine, so names do not do.
fn machines(rank: &RankSpec, addresses: &[String]) -> String {
    let hosts = if addresses.is_empty() { &rank.hosts } else { addresses };
    hosts.iter().map(|host| format!("{host} {}\n", rank.port)).collect()
}

fn slots(rank: &RankSpec, between: &str) -> String {
    let of_ranks = rank.roles.iter().flat_map(|role| (0..role.replicas).map(|_| role.processes_per_replica));
    rank.hosts.iter().zip(of_ranks).map(|(host, slots)| format!("{host}{between}{slots}\n")).collect()
}

/// A link to this program: MPI takes the path of a program, without arguments.
fn agent(root: &Path) -> Result<(), Failure> {
    let path = root.join(LAUNCH_AGENT);
    let failed = |error: std::io::Error| Failure::io("make", &path, &error);
    let own = std::fs::read_link("/proc/self/exe").map_err(failed)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(own, &path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use step_protocol::RoleSpec;

    use super::*;
    use crate::rank::tests::rank;

    fn written(rank: &RankSpec, addresses: &[String]) -> Vec<(String, String)> {
        let root = tempfile::tempdir().unwrap();
        // Twice, as in a container that is started again.
        write(rank, addresses, root.path()).unwrap();
        write(rank, addresses, root.path()).unwrap();
        let mut found: Vec<_> = std::fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name() != LAUNCH_AGENT)
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap()))
            .collect();
        found.sort();
        found
    }

    fn file(name: &str, text: &str) -> (String, String) {
        (name.to_owned(), text.to_owned())
    }

    #[test]
    fn every_rank_has_the_hosts_in_order() {
        assert_eq!(written(&rank(Framework::JAX, 2, 1), &[]), [file("hosts", "h0.fit\nh1.fit\n")]);
    }

    #[test]
    fn lightgbm_has_addresses_and_not_names() {
        let addresses = ["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        let files = written(&rank(Framework::LightGBM, 2, 1), &addresses);
        assert_eq!(files[1], file("machines", "10.0.0.1 29500\n10.0.0.2 29500\n"));
    }

    #[test]
    fn mpi_has_the_slots_of_each_role() {
        let role = |name: &str, replicas, processes_per_replica| RoleSpec {
            name: name.into(),
            replicas,
            processes_per_replica,
        };
        let roles = vec![role("launcher", 1, 1), role("worker", 2, 4)];
        let files = written(&RankSpec { roles, ..rank(Framework::MPI, 3, 0) }, &[]);
        assert_eq!(files[0], file("hostfile", "h0.fit slots=1\nh1.fit slots=4\nh2.fit slots=4\n"));
        assert_eq!(files[1], file("hostfile-hydra", "h0.fit:1\nh1.fit:4\nh2.fit:4\n"));
    }
}

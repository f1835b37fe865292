//! What a rank's program finds in its environment to meet the others, by framework. Pure.

use std::path::Path;

use serde_json::{Map, Value, json};
use step_protocol::{Framework, RankSpec, paths};

use super::files;

/// Child variable with the socket by which `step-runner launch-agent` reaches this runner.
pub(crate) const LAUNCH_SOCKET: &str = "TRAINYARD_LAUNCH_SOCKET";

/// Every variable of the rank, in no order that matters.
pub(crate) fn variables(job: &str, rank: &RankSpec, root: &Path) -> Vec<(String, String)> {
    let mut set = Variables(Vec::new());
    set.add("TRAINYARD_JOB", job);
    set.add("TRAINYARD_ROLE", &rank.role);
    set.add("TRAINYARD_INDEX", rank.index);
    set.add("TRAINYARD_WORLD_SIZE", rank.world_size);
    set.add("TRAINYARD_RANK", rank.rank);
    set.add("TRAINYARD_RANK0_HOST", first_host(rank));
    set.add("TRAINYARD_RANK0_PORT", rank.port);
    set.add("TRAINYARD_HOSTS", root.join(paths::HOSTS).display());
    // Lines of a program that dies or hangs must not wait in its buffer.
    set.add("PYTHONUNBUFFERED", 1);
    match rank.framework {
        Framework::Torch => torch(&mut set, rank),
        Framework::TensorFlow => tensorflow(&mut set, rank),
        Framework::JAX => {
            set.add("JAX_COORDINATOR_ADDRESS", address(rank));
            set.add("JAX_NUM_PROCESSES", rank.world_size);
            set.add("JAX_PROCESS_ID", rank.rank);
        }
        Framework::XGBoost => {
            set.add("DMLC_TRACKER_URI", first_host(rank));
            set.add("DMLC_TRACKER_PORT", rank.port);
            set.add("DMLC_TASK_ID", rank.rank);
            set.add("DMLC_NUM_WORKER", rank.world_size);
        }
        Framework::LightGBM => set.add("TRAINYARD_MACHINES", root.join(paths::MACHINES).display()),
        Framework::MPI => mpi(&mut set, root),
        Framework::None => {}
    }
    set.0
}

struct Variables(Vec<(String, String)>);

impl Variables {
    fn add(&mut self, name: &str, value: impl ToString) {
        self.0.push((name.to_owned(), value.to_string()));
    }
}

fn first_host(rank: &RankSpec) -> &str {
    rank.hosts.first().map_or("", String::as_str)
}

/// Where rank 0's program listens.
fn address(rank: &RankSpec) -> String {
    format!("{}:{}", first_host(rank), rank.port)
}

/// Both for plain processes, which read `RANK`, and for `torchrun`, which reads `PET_*` and sets the others for its processes.
fn torch(set: &mut Variables, rank: &RankSpec) {
    set.add("MASTER_ADDR", first_host(rank));
    set.add("MASTER_PORT", rank.port);
    if rank.processes_per_replica == 1 {
        set.add("RANK", rank.rank);
        set.add("WORLD_SIZE", rank.world_size);
        set.add("LOCAL_RANK", 0);
    }
    set.add("PET_NPROC_PER_NODE", rank.processes_per_replica);
    // Who retries is the operator alone: two that do would multiply.
    set.add("PET_MAX_RESTARTS", 0);
    match rank.elastic {
        Some(bounds) => {
            set.add("PET_NNODES", format_args!("{}:{}", bounds.min, bounds.max));
            set.add("PET_RDZV_BACKEND", "c10d");
            set.add("PET_RDZV_ENDPOINT", address(rank));
            set.add("PET_RDZV_ID", &rank.rendezvous_id);
            // Else it looks whether the endpoint's name is one of this machine's, which a Pod's name may not be.
            set.add("PET_RDZV_CONF", format_args!("is_host={}", rank.rank == 0));
        }
        None => {
            set.add("PET_NNODES", rank.world_size);
            set.add("PET_NODE_RANK", rank.rank);
            set.add("PET_MASTER_ADDR", first_host(rank));
            set.add("PET_MASTER_PORT", rank.port);
        }
    }
}

/// `TF_CONFIG`; of one replica it must not exist, or strategies for one machine wait for others.
fn tensorflow(set: &mut Variables, rank: &RankSpec) {
    if rank.world_size < 2 {
        return;
    }
    let mut cluster = Map::new();
    let mut hosts = rank.hosts.iter();
    for role in &rank.roles {
        let of_role = hosts.by_ref().take(usize::try_from(role.replicas).unwrap_or(usize::MAX));
        let tasks: Vec<Value> = of_role.map(|host| json!(format!("{host}:{}", rank.port))).collect();
        cluster.insert(role.name.clone(), Value::Array(tasks));
    }
    set.add("TF_CONFIG", json!({"cluster": cluster, "task": {"type": rank.role, "index": rank.index}}));
}

/// Open MPI up to 4 (`OMPI_MCA_*`), Open MPI 5 (`PRTE_MCA_*`) and MPICH (`HYDRA_*`) start their daemons by our agent instead of ssh.
fn mpi(set: &mut Variables, root: &Path) {
    let agent = root.join(files::LAUNCH_AGENT).display().to_string();
    let hostfile = root.join(paths::HOSTFILE).display().to_string();
    set.add(LAUNCH_SOCKET, root.join(files::LAUNCH_SOCKET).display());
    set.add("OMPI_MCA_plm_rsh_agent", &agent);
    // Rank 0 alone starts daemons: no other Pod's runner takes orders from its program.
    set.add("OMPI_MCA_plm_rsh_no_tree_spawn", 1);
    set.add("OMPI_MCA_orte_default_hostfile", &hostfile);
    set.add("OMPI_MCA_orte_keep_fqdn_hostnames", 1);
    set.add("PRTE_MCA_plm_ssh_agent", &agent);
    set.add("PRTE_MCA_plm_ssh_no_tree_spawn", 1);
    set.add("PRTE_MCA_prte_default_hostfile", &hostfile);
    set.add("PRTE_MCA_prte_keep_fqdn_hostnames", 1);
    set.add("HYDRA_LAUNCHER", "ssh");
    set.add("HYDRA_LAUNCHER_EXEC", &agent);
    set.add("HYDRA_HOST_FILE", root.join(files::HOSTFILE_HYDRA).display());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use step_protocol::{ElasticSpec, RoleSpec};

    use super::*;
    use crate::rank::tests::rank;

    /// What is set beside the variables of every rank.
    fn own(rank: &RankSpec) -> BTreeMap<String, String> {
        let common = variables("fit", &RankSpec { framework: Framework::None, ..rank.clone() }, Path::new("/t"));
        let all: BTreeMap<_, _> = variables("fit", rank, Path::new("/t")).into_iter().collect();
        assert!(common.iter().all(|(name, value)| all.get(name) == Some(value)));
        let common: BTreeMap<_, _> = common.into_iter().collect();
        all.into_iter().filter(|(name, _)| !common.contains_key(name)).collect()
    }

    fn table(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_rank_knows_who_it_is_and_where_rank_0_is() {
        let all: BTreeMap<_, _> = variables("fit", &rank(Framework::None, 3, 1), Path::new("/t")).into_iter().collect();
        let expected = table(&[
            ("TRAINYARD_JOB", "fit"),
            ("TRAINYARD_ROLE", "worker"),
            ("TRAINYARD_INDEX", "1"),
            ("TRAINYARD_WORLD_SIZE", "3"),
            ("TRAINYARD_RANK", "1"),
            ("TRAINYARD_RANK0_HOST", "h0.fit"),
            ("TRAINYARD_RANK0_PORT", "29500"),
            ("TRAINYARD_HOSTS", "/t/hosts"),
            ("PYTHONUNBUFFERED", "1"),
        ]);
        assert_eq!(all, expected);
    }

    #[test]
    fn torch_by_plain_processes_and_by_torchrun() {
        let static_ = [
            ("MASTER_ADDR", "h0.fit"),
            ("MASTER_PORT", "29500"),
            ("PET_MAX_RESTARTS", "0"),
            ("PET_NNODES", "2"),
            ("PET_NODE_RANK", "1"),
            ("PET_MASTER_ADDR", "h0.fit"),
            ("PET_MASTER_PORT", "29500"),
        ];
        let plain = [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("PET_NPROC_PER_NODE", "1")];
        let one = rank(Framework::Torch, 2, 1);
        assert_eq!(own(&one), table(&[&static_[..], &plain].concat()));
        // Only torchrun knows the ranks of several processes.
        let two = RankSpec { processes_per_replica: 2, ..one };
        assert_eq!(own(&two), table(&[&static_[..], &[("PET_NPROC_PER_NODE", "2")]].concat()));
    }

    #[test]
    fn elastic_torch_meets_by_its_own_rendezvous_of_this_attempt_alone() {
        let elastic = Some(ElasticSpec { min: 2, max: 8 });
        for (index, is_host) in [(0, "is_host=true"), (1, "is_host=false")] {
            let one = RankSpec { elastic, processes_per_replica: 2, ..rank(Framework::Torch, 3, index) };
            let expected = table(&[
                ("MASTER_ADDR", "h0.fit"),
                ("MASTER_PORT", "29500"),
                ("PET_NPROC_PER_NODE", "2"),
                ("PET_MAX_RESTARTS", "0"),
                ("PET_NNODES", "2:8"),
                ("PET_RDZV_BACKEND", "c10d"),
                ("PET_RDZV_ENDPOINT", "h0.fit:29500"),
                ("PET_RDZV_ID", "uid-1"),
                ("PET_RDZV_CONF", is_host),
            ]);
            assert_eq!(own(&one), expected);
        }
    }

    #[test]
    fn tensorflow_has_its_cluster_by_role() {
        let config = |rank: &RankSpec| serde_json::from_str::<Value>(&own(rank)["TF_CONFIG"]).unwrap();
        let workers = rank(Framework::TensorFlow, 2, 1);
        let expected =
            json!({"cluster": {"worker": ["h0.fit:29500", "h1.fit:29500"]}, "task": {"type": "worker", "index": 1}});
        assert_eq!(config(&workers), expected);
        let role = |name: &str, replicas| RoleSpec { name: name.into(), replicas, processes_per_replica: 1 };
        let roles = vec![role("chief", 1), role("worker", 2), role("ps", 1)];
        let one = RankSpec { roles, rank: 2, index: 1, ..rank(Framework::TensorFlow, 4, 2) };
        let expected = json!({
            "cluster": {"chief": ["h0.fit:29500"], "worker": ["h1.fit:29500", "h2.fit:29500"], "ps": ["h3.fit:29500"]},
            "task": {"type": "worker", "index": 1},
        });
        assert_eq!(config(&one), expected);
        assert_eq!(own(&rank(Framework::TensorFlow, 1, 0)), table(&[]), "one replica is no cluster");
    }

    #[test]
    fn jax_xgboost_and_lightgbm() {
        assert_eq!(
            own(&rank(Framework::JAX, 2, 1)),
            table(&[("JAX_COORDINATOR_ADDRESS", "h0.fit:29500"), ("JAX_NUM_PROCESSES", "2"), ("JAX_PROCESS_ID", "1")])
        );
        assert_eq!(
            own(&rank(Framework::XGBoost, 4, 3)),
            table(&[
                ("DMLC_TRACKER_URI", "h0.fit"),
                ("DMLC_TRACKER_PORT", "29500"),
                ("DMLC_TASK_ID", "3"),
                ("DMLC_NUM_WORKER", "4"),
            ])
        );
        assert_eq!(own(&rank(Framework::LightGBM, 2, 0)), table(&[("TRAINYARD_MACHINES", "/t/machines")]));
    }

    #[test]
    fn mpi_starts_its_daemons_by_the_agent() {
        let expected = table(&[
            ("TRAINYARD_LAUNCH_SOCKET", "/t/.launch"),
            ("OMPI_MCA_plm_rsh_agent", "/t/launch-agent"),
            ("OMPI_MCA_plm_rsh_no_tree_spawn", "1"),
            ("OMPI_MCA_orte_default_hostfile", "/t/hostfile"),
            ("OMPI_MCA_orte_keep_fqdn_hostnames", "1"),
            ("PRTE_MCA_plm_ssh_agent", "/t/launch-agent"),
            ("PRTE_MCA_plm_ssh_no_tree_spawn", "1"),
            ("PRTE_MCA_prte_default_hostfile", "/t/hostfile"),
            ("PRTE_MCA_prte_keep_fqdn_hostnames", "1"),
            ("HYDRA_LAUNCHER", "ssh"),
            ("HYDRA_LAUNCHER_EXEC", "/t/launch-agent"),
            ("HYDRA_HOST_FILE", "/t/hostfile-hydra"),
        ]);
        assert_eq!(own(&rank(Framework::MPI, 2, 0)), expected);
    }

    #[test]
    fn no_name_is_set_twice() {
        for framework in Framework::ALL {
            for elastic in [None, Some(ElasticSpec { min: 1, max: 9 })] {
                let names: Vec<_> = variables("fit", &RankSpec { elastic, ..rank(framework, 3, 1) }, Path::new("/t"));
                let unique: BTreeMap<_, _> = names.iter().cloned().collect();
                assert_eq!(unique.len(), names.len(), "{framework:?}");
            }
        }
    }
}

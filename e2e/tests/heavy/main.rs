//! Frameworks whose packages are too large for every run of the tests, on the real kubelet: `make e2e-tensorflow` (0.3 GB to download, an
//! image of 1.4 GB) and `make e2e-torch` (3 GB, 7 GB). No other target runs these.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a story stops at what it did not expect")]

#[path = "../stories/jobs.rs"]
#[expect(dead_code, reason = "shared with the stories, which use all of it")]
mod jobs;
#[path = "../stories/world.rs"]
#[expect(dead_code, reason = "shared with the stories, which use all of it")]
mod world;

use e2e::image::{self, Image, Recipe};
use e2e::paths::Directories;
use jobs::{Training, finished, succeeded};

fn built(recipe: &str) -> Image {
    image::build_recipe(&Directories::from_env(), &Recipe::parse(recipe).unwrap()).unwrap()
}

#[test]
fn tensorflow_on_two_pods_has_one_loss() {
    let training = Training::new("tensorflow", &built(include_str!("tensorflow.toml")));
    training.job(
        "line",
        "e2e/tests/heavy/tensorflow_rank.py",
        "  framework: TensorFlow\n  roles: [{name: worker, replicas: 2, container: {image: IMAGE, command: [python3, tensorflow_rank.py]}}]\n",
    );
    succeeded(&finished(&training.story, "line"));
    assert_eq!(training.all_say("line", 1, "loss").len(), 20);
    // Each step leaves about 1 - 22/64 of the distance to 3, and after twenty of them that is 0.0007.
    assert_eq!(training.all_say("line", 1, "workers"), ["2 workers: weight 2.999"]);
}

#[test]
fn torch_sums_over_two_pods_also_under_torchrun() {
    let training = Training::new("torch", &built(include_str!("torch.toml")));
    for (name, processes, command) in [("plain", 1, ""), ("torchrun", 2, "-m, torch.distributed.run, ")] {
        training.job(
            name,
            "e2e/tests/heavy/torch_rank.py",
            &format!("  framework: Torch\n  roles: [{{name: worker, replicas: 2, processesPerReplica: {processes}, container: {{image: IMAGE, command: [python3, {command}torch_rank.py]}}}}]\n"),
        );
        succeeded(&finished(&training.story, name));
        let expected = if processes == 1 { "2 processes: sum 11" } else { "4 processes: sum 1111" };
        let said = training.log_lines(&training.pod(name, 1, 0), "processes:");
        assert!(said.len() == processes && said.iter().all(|line| line == expected), "{said:?}");
    }
}

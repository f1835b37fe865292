//! Real frameworks train on real Pods that find each other by the cluster's DNS, and are disturbed meanwhile.

use e2e::{image, paths};
use serde_json::Value;

use crate::jobs::{Training, finished, pods, running, succeeded};
use crate::world::bucket_of_all;

#[test]
fn xgboost_on_four_pods_has_one_loss_and_the_same_model_after_one_was_deleted() {
    let training = Training::new("xgboost", &image::build("example-training").unwrap());
    let story = &training.story;
    training.example("examples/xgboost-distributed", &[("name: trees\n", "name: calm\n"), ("pause: 1 ", "pause: 0 ")]);
    let calm = finished(story, "calm");
    let (restarts, undisturbed) = succeeded(&calm);
    assert_eq!((restarts, training.all_say("calm", 1, "log loss").len()), (0, 20), "{calm:#}");

    // As its README says.
    let folder = paths::repository().join("examples/xgboost-distributed");
    story.kubectl(&["apply", "--kustomize", folder.to_str().unwrap()]);
    running(story, "trees", 1);
    let victim = training.pod("trees", 1, 2);
    story.log_until(&victim, "round 3 of 20");
    story.kubectl(&["delete", "pod", &victim, "--wait=false"]);
    let trees = finished(story, "trees");
    let (restarts, status) = succeeded(&trees);
    assert_eq!((restarts, &status["attempt"], &status["ready"]), (1, &2.into(), &"4/4".into()), "{trees:#}");
    let first = &status["attempts"][0]["firstFailure"];
    assert_eq!((&first["index"], &first["reason"]), (&2.into(), &"Disrupted".into()), "{trees:#}");
    assert!(pods(story, "trees", 1).is_empty(), "no Pod of the first attempt is left");
    assert_eq!(training.all_say("trees", 2, "log loss"), training.all_say("calm", 1, "log loss"));
    assert_eq!(status["metrics"]["logloss"], undisturbed["metrics"]["logloss"]);
    assert_eq!(status["outputs"][0]["digest"], undisturbed["outputs"][0]["digest"]);
}

#[test]
fn a_rank_that_is_stopped_by_a_signal_is_stalled_and_all_start_again() {
    let training = Training::new("frozen", &image::build("example-training").unwrap());
    let story = &training.story;
    let changes =
        [("name: trees\n", "name: frozen\n"), ("stallTimeout: 5m", "stallTimeout: 30s"), ("pause: 1 ", "pause: 0.5 ")];
    training.example("examples/xgboost-distributed", &changes);
    running(story, "frozen", 1);
    let victim = training.pod("frozen", 1, 2);
    story.log_until(&victim, "round 2 of 20");
    training.signal(&victim, "STOP");
    let job = finished(story, "frozen");
    let (restarts, status) = succeeded(&job);
    assert_eq!((restarts, &status["failures"]["user"]), (1, &1.into()), "{job:#}");
    let first = &status["attempts"][0]["firstFailure"];
    assert_eq!((&first["class"], &first["reason"]), (&"User".into(), &"Stalled".into()), "{job:#}");
    assert!(first["message"].as_str().unwrap().contains("no sign of progress for 30 s"), "{job:#}");
    assert_eq!(training.all_say("frozen", 2, "log loss").len(), 20);
}

#[test]
fn lightgbm_on_two_pods_grows_the_same_trees() {
    let training = Training::new("lightgbm", &image::build("example-training").unwrap());
    training.job(
        "leaves",
        "step-runner/tests/programs/lightgbm_rank.py",
        "  framework: LightGBM\n  roles: [{name: worker, replicas: 2, container: {image: IMAGE, command: [python3, lightgbm_rank.py]}}]\n",
    );
    succeeded(&finished(&training.story, "leaves"));
    let said = training.all_say("leaves", 1, "of trees");
    let accuracy: f64 = said[0].split(' ').nth(1).unwrap().parse().unwrap();
    assert!(accuracy > 0.8, "{said:?}");
}

/// The loss of each step, as rank 0 wrote it to its metrics.
fn curve(status: &Value) -> Vec<(u64, String)> {
    let model = status["outputs"][0]["uri"].as_str().unwrap();
    let (bucket, prefix) = model.strip_prefix("s3://").unwrap().split_once('/').unwrap();
    let key = format!("{}metrics.jsonl", prefix.strip_suffix("model/").unwrap());
    let text = String::from_utf8(bucket_of_all().get(bucket, &key).unwrap()).unwrap();
    let metrics = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    metrics.map(|metric| (metric["step"].as_u64().unwrap(), metric["value"].to_string())).collect()
}

#[test]
fn jax_that_is_killed_twice_ends_with_the_curve_of_one_that_was_not() {
    let training = Training::new("jax", &image::build("example-training").unwrap());
    let story = &training.story;
    let job = |name: &str, pause: &str| {
        let (name, pause) = (format!("name: {name}\n"), format!("pause: {pause} "));
        let changes = [
            ("name: digits\n", name.as_str()),
            ("pause: 1 ", &pause),
            ("steps: 60", "steps: 40"),
            ("interval: 5s", "interval: 1s"),
        ];
        training.example("examples/jax-checkpoint", &changes);
    };
    job("calm", "0");
    let calm = finished(story, "calm");
    let expected = curve(succeeded(&calm).1);
    assert_eq!(expected.len(), 40, "{expected:?}");

    job("killed", "0.5");
    // First the program of rank 1, by a signal; then the Pod of rank 0, with force.
    for (attempt, rank) in [(1, 1), (2, 0)] {
        running(story, "killed", attempt);
        story.log_until(&training.pod("killed", attempt, 0), &format!("trainyard: checkpoint 00000{attempt}-"));
        let victim = training.pod("killed", attempt, rank);
        if rank == 1 {
            training.signal(&victim, "KILL");
        } else {
            story.kubectl(&["delete", "pod", &victim, "--force", "--grace-period=0"]);
        }
        story.until("tj/killed", "the end of the attempt", |job| job["status"]["restarts"] == attempt);
    }
    let killed = finished(story, "killed");
    let (restarts, status) = succeeded(&killed);
    assert_eq!((restarts, &status["attempt"]), (2, &3.into()), "{killed:#}");
    let reasons: Vec<_> = (0..2).map(|at| &status["attempts"][at]["firstFailure"]["reason"]).collect();
    assert_eq!(reasons, ["UserError", "Disrupted"], "{killed:#}");
    let began = training.all_say("killed", 3, "begins at step");
    let step: u32 = began[0].split(' ').nth(3).unwrap().parse().unwrap();
    assert!(step >= 5, "{began:?}");
    assert_eq!(curve(status), expected);
}

#[test]
fn mpi_sums_over_three_pods_without_ssh() {
    let training = Training::new("mpi", &image::build("example-mpi").unwrap());
    training.job(
        "sum",
        "step-runner/tests/programs/mpi_sum.py",
        "  framework: MPI\n  roles: [{name: worker, replicas: 3, container: {image: IMAGE, command: [mpiexec, -n, '3', python3, mpi_sum.py]}}]\n",
    );
    succeeded(&finished(&training.story, "sum"));
    let said = training.log_lines(&training.pod("sum", 1, 0), "processes on");
    let (addresses, sum) = said[0].strip_prefix("3 processes on ").unwrap().split_once(": ").unwrap();
    assert_eq!((addresses.split(' ').count(), sum), (3, "sum 111"), "{said:?}");
}

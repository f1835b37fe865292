//! Worlds on every kind of store.

use step_protocol::{S3Spec, StoreSpec};

use super::World;

/// A service that the environment names.
pub struct S3 {
    pub endpoint: String,
    pub bucket: String,
}

/// The service, if there is one.
pub fn s3() -> Option<S3> {
    let variable = |name: &str| std::env::var(name).ok();
    let found = variable("TRAINYARD_TEST_S3_ENDPOINT").zip(variable("TRAINYARD_TEST_S3_BUCKET"));
    if found.is_none() {
        eprintln!("not run on S3: TRAINYARD_TEST_S3_ENDPOINT is not set");
    }
    found.map(|(endpoint, bucket)| S3 { endpoint, bucket })
}

/// A world on the service, by way of `endpoint`.
pub fn on_s3(s3: &S3, endpoint: &str) -> World {
    let mut world = World::new();
    let unique = world.dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
    world.store = StoreSpec {
        uri: format!("s3://{}/runs/{unique}", s3.bucket),
        s3: Some(S3Spec { endpoint: Some(endpoint.into()), region: None, virtual_hosted_style: false }),
    };
    world.credentials = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        .map(|name| (format!("TRAINYARD_STORE_{name}"), std::env::var(name).unwrap()))
        .to_vec();
    world
}

/// Every world there is, with its name.
pub fn worlds() -> Vec<(&'static str, World)> {
    let mut worlds = vec![("file", World::new())];
    let mut volume = World::new();
    if let Ok(dir) = tempfile::tempdir_in("/dev/shm") {
        volume.store.uri = format!("file://{}/store", dir.path().display());
        volume.keep.push(dir);
        worlds.push(("volume", volume));
    }
    if let Some(s3) = s3() {
        worlds.push(("s3", on_s3(&s3, &s3.endpoint)));
    }
    worlds
}

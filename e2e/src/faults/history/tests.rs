use super::*;
use serde_json::json;

fn version(change: Change, revision: u64) -> What {
    let object = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": revision.to_string()}});
    What::Version(Version { kind: Kind::Pod, change, object })
}

#[tokio::test]
async fn what_happens_later_ends_a_wait() {
    let recorder = Recorder::default();
    let later = recorder.clone();
    tokio::spawn(async move { later.push(version(Change::Added, 7)) });
    let seen = |world: &World| world.object(Kind::Pod, "a").map(revision);
    assert_eq!(recorder.wait(Duration::from_secs(5), "the Pod", seen).await.unwrap(), 7);

    recorder.push(version(Change::Deleted, 8));
    let error = recorder.wait(Duration::from_millis(20), "the Pod", seen).await.unwrap_err();
    assert_eq!(error.to_string(), "waited 0 s in vain for the Pod");
}

#[tokio::test]
async fn trouble_ends_a_wait_at_once() {
    let recorder = Recorder::default();
    recorder.push(What::Trouble("no binding".into()));
    let error = recorder.wait(Duration::from_secs(60), "x", |_| None::<()>).await.unwrap_err();
    assert!(error.to_string().contains("no binding"), "{error}");
}

#[test]
fn versions_are_in_the_order_of_the_api_server() {
    let recorder = Recorder::default();
    for revision in [9, 10, 8] {
        recorder.push(version(Change::Modified, revision));
    }
    let history = recorder.history();
    let order: Vec<u64> = history.versions(Kind::Pod).iter().map(|version| version.revision()).collect();
    assert_eq!(order, [8, 9, 10]);
}

#[test]
fn a_write_is_done_when_the_api_server_said_so() {
    let request = |id, write| What::Request(Request { id, write, ..Request::default() });
    let reply = |id, status| What::Reply(Reply { id, status, ..Reply::default() });
    let recorder = Recorder::default();
    for what in [request(1, Some(1)), request(2, None), request(3, Some(2)), reply(3, 409), reply(1, 201)] {
        recorder.push(what);
    }
    let history = recorder.history();
    let done: Vec<(u64, bool)> = history.writes().iter().map(|write| (write.request.id, write.is_done())).collect();
    assert_eq!(done, [(1, true), (3, false)]);
}

//! The proxy before a server of a few lines, with a victim that only counts its deaths.

use super::*;
use crate::faults::history::History;
use http::StatusCode;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An API server that answers everything, and streams two events where it is asked to watch.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: http::Request<Incoming>| async move {
                let watch = request.uri().query() == Some("watch=true");
                let body = if watch { watch_events() } else { Bytes::from_static(b"{\"kind\":\"Pod\"}") };
                let status = if request.method() == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
                Ok::<_, Cut>(Response::builder().status(status).body(Full::new(body)).unwrap())
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn watch_events() -> Bytes {
    let event = |kind: &str, revision: u32| json!({"type": kind, "object": {"kind": "Pod", "metadata": {"name": "a", "resourceVersion": revision.to_string()}}});
    format!("{}\n{}\n", event("ADDED", 4), event("MODIFIED", 5)).into()
}

struct World {
    proxy: Proxy,
    recorder: Recorder,
}

impl World {
    async fn new(strikes: &[Strike]) -> Self {
        let api = Api::plain(&format!("http://{}", server().await));
        let recorder = Recorder::default();
        let (killer, mut kills) = Killer::new();
        let graveyard = recorder.clone();
        tokio::spawn(async move {
            while let Some(done) = kills.next().await {
                graveyard.push(What::Killed(1));
                let _ = done.send(());
            }
        });
        let scene = Scene::new(api, recorder.clone(), strikes);
        Self { proxy: Proxy::start(scene, killer).await.unwrap(), recorder }
    }

    /// What comes back on a connection of its own; empty if it was cut.
    async fn ask(&self, method: &str, target: &str) -> String {
        let mut stream = TcpStream::connect(self.proxy.address).await.unwrap();
        let head =
            format!("{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    /// What happened, in words, once the victim is dead.
    async fn after_the_kill(&self) -> Vec<&'static str> {
        let dead = async {
            while self.recorder.history().entries.iter().all(|entry| entry.what != What::Killed(1)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), dead).await.unwrap();
        words(&self.recorder.history())
    }
}

fn words(history: &History) -> Vec<&'static str> {
    let word = |entry: &crate::faults::history::Entry| match entry.what {
        What::Request(_) => "request",
        What::Reply(_) => "reply",
        What::Fault(_) => "fault",
        What::Killed(_) => "killed",
        What::Watched { .. } => "watched",
        _ => "other",
    };
    history.entries.iter().map(word).collect()
}

fn at(place: Place, fault: Fault) -> [Strike; 1] {
    [Strike { place, fault }]
}

#[tokio::test]
async fn requests_and_answers_are_recorded_and_writes_are_numbered() {
    let world = World::new(&[]).await;
    assert!(world.ask("GET", "/api/v1/pods?limit=5").await.starts_with("HTTP/1.1 200"));
    assert!(world.ask("POST", "/api/v1/namespaces/n/pods").await.ends_with("{\"kind\":\"Pod\"}"));
    assert!(world.ask("PATCH", "/api/v1/namespaces/n/pods/a").await.starts_with("HTTP/1.1 200"));
    world.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").await;
    let history = world.recorder.history();
    let writes = history.writes();
    assert_eq!(writes.iter().map(|write| write.request.write).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!(writes[0].request.body, json!({}));
    assert_eq!(writes[0].reply.unwrap().body, json!({"kind": "Pod"}));
    assert_eq!(writes[0].reply.unwrap().status, 201);
    let What::Request(first) = &history.entries[0].what else { panic!("{history:?}") };
    assert_eq!((first.path.as_str(), first.query.as_str(), first.write), ("/api/v1/pods", "limit=5", None));
}

#[tokio::test]
async fn a_watch_passes_and_is_recorded_event_by_event() {
    let world = World::new(&[]).await;
    assert!(world.ask("GET", "/api/v1/pods?watch=true").await.contains("MODIFIED"));
    let watched = world.recorder.history().entries.into_iter().filter_map(|entry| match entry.what {
        What::Watched { event, object, .. } => Some(format!("{event} {object}")),
        _ => None,
    });
    assert_eq!(watched.collect::<Vec<_>>(), ["ADDED Pod a@4", "MODIFIED Pod a@5"]);
}

#[tokio::test]
async fn killed_before_nothing_is_sent_on() {
    let world = World::new(&at(Place::Write(1), Fault::KillBefore)).await;
    assert_eq!(world.ask("POST", "/api/v1/namespaces/n/pods").await, "");
    assert_eq!(world.after_the_kill().await, ["request", "fault", "killed"]);
}

#[tokio::test]
async fn killed_after_the_commit_the_answer_stays_here() {
    let world = World::new(&at(Place::Write(2), Fault::KillAfterCommit)).await;
    world.ask("POST", "/api/v1/namespaces/n/pods").await;
    assert_eq!(world.ask("POST", "/api/v1/namespaces/n/pods").await, "");
    assert_eq!(world.after_the_kill().await, ["request", "reply", "request", "fault", "reply", "killed"]);
}

#[tokio::test]
async fn killed_after_the_reply_the_answer_has_arrived() {
    let world = World::new(&at(Place::Write(1), Fault::KillAfterReply)).await;
    assert!(world.ask("POST", "/api/v1/namespaces/n/pods").await.ends_with("{\"kind\":\"Pod\"}"));
    assert_eq!(world.after_the_kill().await, ["request", "fault", "reply", "killed"]);
    assert!(world.ask("POST", "/api/v1/namespaces/n/pods").await.starts_with("HTTP/1.1 201"), "one fault a case");
}

#[tokio::test]
async fn an_answer_that_the_api_server_did_not_give() {
    let world = World::new(&at(Place::Write(1), Fault::TooManyRequests)).await;
    let answer = world.ask("POST", "/api/v1/namespaces/n/pods").await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 1"), "{answer}");
    assert_eq!(words(&world.recorder.history()), ["request", "fault", "reply"]);
    assert!(world.ask("POST", "/api/v1/namespaces/n/pods").await.starts_with("HTTP/1.1 201"), "one fault a case");
}

#[tokio::test]
async fn events_are_dropped_doubled_and_replaced() {
    let events = |answer: &str| {
        let lines = answer.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let words: Vec<String> = lines.filter_map(|event| event["type"].as_str().map(str::to_owned)).collect();
        words.join(" ")
    };
    for (fault, expected) in [
        (Fault::Drop, "MODIFIED"),
        (Fault::Duplicate, "ADDED ADDED MODIFIED"),
        (Fault::Expired, "ERROR"),
        (Fault::Disconnect, ""),
    ] {
        let world = World::new(&at(Place::Event(1), fault)).await;
        let answer = world.ask("GET", "/api/v1/pods?watch=true").await;
        assert_eq!(events(&answer), expected, "{fault:?}: {answer}");
    }
}

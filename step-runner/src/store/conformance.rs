//! One suite for all stores, at the level of their operations: the same code on a directory, on a volume of another file system, and
//! on an S3 service when `TRAINYARD_TEST_S3_ENDPOINT`, `TRAINYARD_TEST_S3_BUCKET` and the keys are set.

use std::fs::File;
use std::io::{Cursor, Read as _, Seek as _};
use std::time::Duration;

use futures_util::future::join_all;
use step_protocol::{S3Spec, StoreSpec, paths};

use super::*;
use crate::environment::Credentials;

struct Subject {
    name: &'static str,
    store: Store,
    _dir: Option<tempfile::TempDir>,
}

fn subjects() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for (name, parent) in [("file", std::env::temp_dir()), ("volume", PathBuf::from("/dev/shm"))] {
        if parent.is_dir() {
            let dir = tempfile::tempdir_in(parent).unwrap();
            let spec = StoreSpec { uri: format!("file://{}/store", dir.path().display()), s3: None };
            subjects.push(Subject { name, store: open(spec, Credentials::default()), _dir: Some(dir) });
        }
    }
    match s3() {
        Some(store) => subjects.push(Subject { name: "s3", store, _dir: None }),
        None => eprintln!("the suite has not run on S3: TRAINYARD_TEST_S3_ENDPOINT is not set"),
    }
    subjects
}

fn open(spec: StoreSpec, credentials: Credentials) -> Store {
    Opener::new(&spec, credentials, Duration::from_secs(20)).store().unwrap()
}

fn s3() -> Option<Store> {
    let variable = |name: &str| std::env::var(name).ok();
    let endpoint = variable("TRAINYARD_TEST_S3_ENDPOINT")?;
    let bucket = variable("TRAINYARD_TEST_S3_BUCKET")?;
    let unique = tempfile::Builder::new().tempdir().unwrap();
    let unique = unique.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
    let credentials = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        .into_iter()
        .filter_map(|name| Some((name.to_ascii_lowercase(), variable(name)?)))
        .collect();
    let s3 = S3Spec { endpoint: Some(endpoint), region: None, virtual_hosted_style: false };
    Some(open(StoreSpec { uri: format!("s3://{bucket}/conformance/{unique}"), s3: Some(s3) }, Credentials(credentials)))
}

/// Runs the case on every store.
fn on_all(case: impl AsyncFn(Store)) {
    for subject in subjects() {
        eprintln!("on {}", subject.name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(case(subject.store.clone()));
    }
}

fn file() -> (File, File) {
    let file = tempfile::tempfile().unwrap();
    (file.try_clone().unwrap(), file)
}

async fn keys(store: &Store, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|(key, _)| key).collect()
}

#[test]
fn small_objects_come_back() {
    on_all(async |store| {
        assert_eq!(store.read("a/none").await.unwrap(), None);
        assert!(store.stat("a/none").await.unwrap().is_none());
        assert!(keys(&store, "a/").await.is_empty());
        store.write("a/x", Bytes::from_static(b"one")).await.unwrap();
        store.write("a/x", Bytes::from_static(b"two")).await.unwrap();
        store.write("a/b/y", Bytes::new()).await.unwrap();
        store.write("ab/z", Bytes::new()).await.unwrap();
        assert_eq!(store.read("a/x").await.unwrap().unwrap(), "two");
        assert_eq!(keys(&store, "a/").await, ["b/y", "x"]);
        store.delete(["a/x".to_owned(), "a/none".to_owned()]).await;
        assert_eq!(keys(&store, "a/").await, ["b/y"]);
    });
}

#[test]
fn creation_is_exclusive_also_when_many_try_at_once() {
    on_all(async |store| {
        assert_eq!(store.create("c/one", Bytes::from_static(b"1")).await.unwrap(), Created::Yes);
        assert_eq!(store.create("c/one", Bytes::from_static(b"2")).await.unwrap(), Created::Exists);
        assert_eq!(store.read("c/one").await.unwrap().unwrap(), "1");
        for round in 0..10 {
            let key = format!("c/race-{round}");
            let tries = (0..8u8).map(|n| store.create(&key, Bytes::from(vec![n; 100])));
            let created: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
            let winners: Vec<usize> = (0..8).filter(|n| created[*n] == Created::Yes).collect();
            assert_eq!(winners.len(), 1, "round {round}: {created:?}");
            let kept = store.read(&key).await.unwrap().unwrap();
            assert_eq!(usize::from(kept[0]), winners[0]);
        }
    });
}

#[test]
fn a_record_is_taken_by_the_first() {
    on_all(async |store| {
        let (one, two) = (Bytes::from_static(b"1"), Bytes::from_static(b"2"));
        assert_eq!(store.read_bounded("t/one").await.unwrap(), None);
        assert_eq!(store.claim("t/one", one.clone()).await.unwrap(), Claimed::Ours);
        assert_eq!(store.claim("t/one", one.clone()).await.unwrap(), Claimed::Ours, "its answer was lost");
        assert_eq!(store.claim("t/one", two).await.unwrap(), Claimed::Taken(one.clone()));
        assert_eq!(store.read_bounded("t/one").await.unwrap(), Some(one));
        store.write("t/large", vec![b' '; (4 << 20) + 1].into()).await.unwrap();
        for error in
            [store.read_bounded("t/large").await.unwrap_err(), store.claim("t/large", Bytes::new()).await.unwrap_err()]
        {
            let named = error.to_string().contains("t/large is not what it should be: it has 4194305 bytes");
            assert!(matches!(error, StoreError::Corrupt { .. }) && named, "{error}");
        }
    });
}

#[test]
fn what_is_removed_is_gone_and_nothing_else() {
    on_all(async |store| {
        assert!(store.directories("r/").await.unwrap().is_empty());
        for key in ["r/a/1", "r/a/b/2", "r/c.d/3", "r/file", "ra/4"] {
            store.write(key, Bytes::from_static(b"x")).await.unwrap();
        }
        assert_eq!(store.directories("r/").await.unwrap(), ["a", "c.d"]);
        let removed = ["r/a/1", "r/a/none", "r/none/at/all", "r/a/b/2"].map(str::to_owned);
        store.remove(&removed).await.unwrap();
        store.remove(&removed).await.unwrap();
        store.remove(&[]).await.unwrap();
        assert_eq!(keys(&store, "r/").await, ["c.d/3", "file"]);
        assert_eq!(store.directories("r/").await.unwrap(), ["c.d"], "no empty directory is left");
        assert_eq!(keys(&store, "ra/").await, ["4"]);
    });
}

#[test]
fn the_probe_accepts_it_and_leaves_nothing() {
    on_all(async |store| {
        store.probe("p/1").await.unwrap();
        store.probe("p/1").await.unwrap();
        assert!(keys(&store, "p/").await.is_empty());
    });
}

#[test]
fn files_of_every_size_go_both_ways_with_one_digest() {
    on_all(async |store| {
        let part = usize::try_from(PART).unwrap();
        for size in [0, 1, 64 * 1024, 64 * 1024 + 1, part - 1, part, part + 1, 2 * part, 3 * part + 12345] {
            let bytes: Vec<u8> = (0..size).map(|n| (n * 31 + n / 251) as u8).collect();
            let digest = crate::digest::sha256(&bytes);
            let key = format!("f/{size}");
            let sent = store.send(&key, Cursor::new(bytes.clone()), size as u64, std::future::pending()).await.unwrap();
            assert_eq!((sent.size, sent.digest.as_str()), (size as u64, digest.as_str()));
            let etag = store.stat(&key).await.unwrap().unwrap().e_tag;
            for etag in [None, etag] {
                let (target, mut written) = file();
                let expected = Expected { size: size as u64, etag };
                assert_eq!(store.fetch(&key, &expected, target).await.unwrap(), digest, "{key}");
                let mut back = Vec::new();
                written.rewind().unwrap();
                written.read_to_end(&mut back).unwrap();
                assert!(back == bytes, "{key}");
            }
        }
    });
}

#[test]
fn packs_go_out_whole_and_come_back_in_ranges() {
    on_all(async |store| {
        let part = usize::try_from(PART).unwrap();
        for (n, size) in [0, 1, 64 * 1024, part].into_iter().enumerate() {
            let key = format!("k/{}", paths::pack_name(n));
            let bytes: Vec<u8> = (0..size).map(|n| (n * 31 + n / 251) as u8).collect();
            let copy = bytes.clone();
            let fill = move |buffer: &mut Vec<u8>| buffer.extend_from_slice(&copy);
            let ((), filled) = store.fill(size as u64, fill).await.unwrap();
            store.send_filled(&key, filled).await.unwrap();
            assert_eq!(store.read(&key).await.unwrap().unwrap(), bytes);
            for range in [0..size, 0..1, size / 3..size / 2, size.max(1) - 1..size] {
                if range.is_empty() || range.end > size {
                    continue;
                }
                let got = store.fetch_range(&key, range.start as u64..range.end as u64).await.unwrap();
                assert!(*got == bytes[range.clone()], "{key} {range:?}");
            }
            for beyond in [size..size + 1, 0..size + 1, size + 5..size + 6] {
                let error = store.fetch_range(&key, beyond.start as u64..beyond.end as u64).await.err().unwrap();
                let named = error.to_string().contains(&key);
                assert!(matches!(error, StoreError::Corrupt { .. }) && named, "{key} {beyond:?}: {error}");
            }
        }
        let error = store.fetch_range("k/none", 0..1).await.err().unwrap();
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    });
}

#[test]
fn odd_names_are_their_own() {
    let names = [
        "manifest.json",
        "a b",
        "a+b",
        "a%20b",
        "100%",
        "#1",
        "x#12",
        "new\nline",
        "tab\t",
        "ä",
        "🚂",
        "back\\slash",
        "~",
        "...",
        "'\"`$()",
        "?x=y&z",
        ":",
        "*",
        "[a]{b}",
        "\u{7f}",
        "-",
        "%2e%2e",
        "a;b=c,d@e!",
        "COMMIT",
    ];
    on_all(async |store| {
        for name in names {
            let key = format!("o/{}", paths::object_name(name));
            store.write(&key, Bytes::from(name)).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        }
        for name in names {
            let key = format!("o/{}", paths::object_name(name));
            assert_eq!(store.read(&key).await.unwrap().unwrap(), name);
        }
        let mut expected: Vec<String> = names.iter().map(|name| paths::object_name(name)).collect();
        expected.sort();
        assert_eq!(keys(&store, "o/").await, expected);
    });
}

#[test]
fn what_is_not_as_expected_is_an_error_that_names_it() {
    on_all(async |store| {
        store.write("w/x", Bytes::from_static(b"12345")).await.unwrap();
        for size in [4, 6, PART + 1] {
            let error = store.fetch("w/x", &Expected { size, etag: None }, file().0).await.unwrap_err();
            assert!(
                matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains("w/x"),
                "{size}: {error}"
            );
        }
        let error = store.fetch("w/none", &Expected { size: 1, etag: None }, file().0).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
        let old = Expected { size: 5, etag: Some("\"0-0-0\"".into()) };
        let error = store.fetch("w/x", &old, file().0).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        for key in ["", "/", "../x", "a//b", "a/../b"] {
            assert!(matches!(store.read(key).await, Err(StoreError::Config(_))), "{key:?}");
        }
    });
}

/// Gives one part and then, without an end, a byte at a time once `go` is there.
struct Endless(tokio::sync::watch::Sender<bool>, u64);

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 += buffer.len() as u64;
        if self.1 > 3 * PART {
            self.0.send_replace(true);
        }
        buffer.fill(1);
        Ok(buffer.len())
    }
}

#[test]
fn a_stopped_upload_leaves_nothing() {
    on_all(async |store| {
        let sender = tokio::sync::watch::Sender::new(false);
        let mut receiver = sender.subscribe();
        let stop = async move {
            let _ = receiver.wait_for(|stop| *stop).await;
        };
        let stopped = store.send("s/x", Endless(sender, 0), u64::MAX >> 20, stop).await;
        assert!(matches!(stopped, Err(StoreError::Stopped)), "{stopped:?}");
        assert!(keys(&store, "s/").await.is_empty());
        if let Backend::Local { directory, .. } = &store.backend {
            let left: Vec<_> = std::fs::read_dir(directory.join("s")).into_iter().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    });
}

#[test]
fn wrong_keys_are_refused_without_repeating_them() {
    let Some(endpoint) = std::env::var("TRAINYARD_TEST_S3_ENDPOINT").ok() else { return };
    let bucket = std::env::var("TRAINYARD_TEST_S3_BUCKET").unwrap();
    let credentials = |secret: &str| {
        let pairs = [
            ("aws_access_key_id", std::env::var("AWS_ACCESS_KEY_ID").unwrap()),
            ("aws_secret_access_key", secret.into()),
        ];
        Credentials(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let s3 = S3Spec { endpoint: Some(endpoint), region: None, virtual_hosted_style: false };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spec = StoreSpec { uri: format!("s3://{bucket}/x"), s3: Some(s3.clone()) };
        let error = open(spec, credentials("planted-secret")).read("k").await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("SignatureDoesNotMatch") && text.contains("/x/k") && !text.contains("planted"), "{text}");
        let spec = StoreSpec { uri: "s3://no-such-bucket-here/x".into(), s3: Some(s3) };
        let secret = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap();
        let error = open(spec, credentials(&secret)).read("k").await.unwrap_err();
        assert!(matches!(error, StoreError::Config(_)) && error.to_string().contains("NoSuchBucket"), "{error}");
    });
}

#[test]
fn a_store_that_is_away_is_waited_for_and_then_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let s3 = S3Spec { endpoint: Some(endpoint), region: None, virtual_hosted_style: false };
    let keys = [("aws_access_key_id", "a"), ("aws_secret_access_key", "b")];
    let credentials = Credentials(keys.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let spec = StoreSpec { uri: "s3://b/p".into(), s3: Some(s3) };
    // The clock is the test's: fifteen minutes pass at once.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let store = Opener::new(&spec, credentials, Duration::from_secs(900)).store().unwrap();
        let begin = Instant::now();
        let error = store.read("k").await.unwrap_err();
        let StoreError::Unavailable { tries, detail, .. } = &error else { panic!("{error}") };
        assert!((20..60).contains(tries) && detail.contains("refused"), "{error}");
        assert!(begin.elapsed() > Duration::from_secs(840));
    });
}

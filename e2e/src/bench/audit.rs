//! The API server's audit log: who asked what of it, and when, to the microsecond.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;

use super::Error;

/// A request that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When it was received, in seconds since 1970.
    pub received: f64,
    /// When it was answered.
    pub answered: f64,
    /// `create`, `patch`, `watch`, ...
    pub verb: String,
    /// Who asked.
    pub user: String,
    /// The resource and, after a slash, the subresource.
    pub resource: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Its name; empty for lists, and for creates of objects that name themselves in their body alone.
    pub name: String,
    /// The HTTP status.
    pub code: u16,
}

/// A file that the API server appends to.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

/// A place in the log: what comes after it is younger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl AuditLog {
    /// The log in this file.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The end of the log now.
    pub fn mark(&self) -> Result<Mark, Error> {
        let length = self.path.metadata().map_err(Error::file(&self.path))?.len();
        Ok(Mark(length))
    }

    /// What was answered since.
    pub fn since(&self, mark: Mark) -> Result<Vec<Event>, Error> {
        let mut file = File::open(&self.path).map_err(Error::file(&self.path))?;
        file.seek(SeekFrom::Start(mark.0)).map_err(Error::file(&self.path))?;
        let mut events = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(Error::file(&self.path))?;
            // The last line may be half written.
            events.extend(parse(&line));
        }
        Ok(events)
    }
}

/// When the status of each Pod was written for the last time, among these events.
#[must_use]
pub fn last_status_writes(events: &[Event]) -> HashMap<&str, &Event> {
    let mut last: HashMap<&str, &Event> = HashMap::new();
    for event in events.iter().filter(|event| event.resource == "pods/status" && event.code < 300) {
        let entry = last.entry(&event.name).or_insert(event);
        if event.answered > entry.answered {
            *entry = event;
        }
    }
    last
}

/// When each Pod was created, among these events.
#[must_use]
pub fn creates(events: &[Event]) -> HashMap<&str, &Event> {
    let created = |event: &&Event| event.resource == "pods" && event.verb == "create" && event.code == 201;
    events.iter().filter(created).map(|event| (event.name.as_str(), event)).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    user: User,
    object_ref: Option<Object>,
    response_status: Option<Status>,
    request_received_timestamp: String,
    stage_timestamp: String,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// A line of the log, if it is about an answer. Watches begin with `ResponseStarted`, which counts as their answer.
fn parse(line: &str) -> Option<Event> {
    let line: Line = serde_json::from_str(line).ok()?;
    let answer = if line.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
    if line.stage != answer {
        return None;
    }
    let Object { resource, subresource, namespace, name } = line.object_ref.unwrap_or_default();
    let resource = if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
    Some(Event {
        received: seconds(&line.request_received_timestamp)?,
        answered: seconds(&line.stage_timestamp)?,
        verb: line.verb,
        user: line.user.username,
        resource,
        namespace,
        name,
        code: line.response_status.map_or(0, |status| status.code),
    })
}

fn seconds(text: &str) -> Option<f64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/n/pods?fieldManager=trainyard","verb":"create","user":{"username":"system:serviceaccount:trainyard-system:trainyard","groups":["system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"trainyard-operator/0.1.0","objectRef":{"resource":"pods","namespace":"n","name":"chain-s001-a1-x","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":201},"requestReceivedTimestamp":"2026-01-01T00:00:01.250001Z","stageTimestamp":"2026-01-01T00:00:01.254003Z","annotations":{"authorization.k8s.io/decision":"allow"}}"#;

    fn status(name: &str, answered: &str) -> String {
        CREATE
            .replace("\"create\"", "\"patch\"")
            .replace("\"resource\":\"pods\"", "\"resource\":\"pods\",\"subresource\":\"status\"")
            .replace("chain-s001-a1-x", name)
            .replace("01.254003", answered)
            .replace("201", "200")
    }

    #[test]
    fn a_line_is_read_to_the_microsecond() {
        let event = parse(CREATE).unwrap();
        assert_eq!(
            (event.verb.as_str(), event.resource.as_str(), event.name.as_str()),
            ("create", "pods", "chain-s001-a1-x")
        );
        assert_eq!((event.user.as_str(), event.code), ("system:serviceaccount:trainyard-system:trainyard", 201));
        assert!((event.answered - event.received - 0.004_002).abs() < 1e-6, "{event:?}");
    }

    #[test]
    fn what_is_no_answer_is_left_out() {
        assert_eq!(parse(&CREATE.replace("ResponseComplete", "ResponseStarted")), None);
        assert_eq!(parse(&CREATE[..100]), None);
        assert_eq!(parse(""), None);
        let watch = CREATE.replace("\"create\"", "\"watch\"");
        assert_eq!(parse(&watch), None);
        assert_eq!(parse(&watch.replace("ResponseComplete", "ResponseStarted")).unwrap().verb, "watch");
    }

    #[test]
    fn only_what_comes_after_a_mark_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = AuditLog::new(file.path().to_owned());
        std::fs::write(file.path(), format!("{CREATE}\n")).unwrap();
        let mark = log.mark().unwrap();
        let half = &CREATE[..CREATE.len() / 2];
        std::fs::write(file.path(), format!("{CREATE}\n{}\n{half}", status("late", "01.300000"))).unwrap();
        let events = log.since(mark).unwrap();
        assert_eq!(events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["late"]);
    }

    #[test]
    fn the_last_write_of_a_status_counts() {
        let lines = [status("a", "01.260000"), status("b", "01.270000"), status("a", "01.280000"), CREATE.to_owned()];
        let events: Vec<Event> = lines.iter().filter_map(|line| parse(line)).collect();
        let last = last_status_writes(&events);
        assert_eq!(last.len(), 2);
        assert!((last["a"].answered - events[2].answered).abs() < f64::EPSILON);
        assert_eq!(creates(&events).into_keys().collect::<Vec<_>>(), ["chain-s001-a1-x"]);
    }
}

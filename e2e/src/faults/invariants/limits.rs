//! I10: objects, notes and messages stay below their limits.

use super::{Evidence, Violation};
use crate::faults::history::What;
use serde_json::Value;

/// Most bytes of an object.
const OBJECT: usize = 1024 * 1024;
/// Most bytes of an Event's note.
const NOTE: usize = 1024;
/// Most bytes of a termination message: the kubelet cuts it there.
const MESSAGE: usize = 4096;

/// Everything that is written to the API server and by runners is small.
pub(super) fn sizes_stay_small(evidence: Evidence<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for entry in &evidence.history.entries {
        match &entry.what {
            What::Version(version) => {
                let size = version.object.to_string().len();
                if size > OBJECT {
                    found
                        .push(Violation::new("I10", format!("{:?} {} has {size} bytes", version.kind, version.name())));
                }
            }
            What::Request(request) if request.path.ends_with("/events") => {
                let note = request.body["note"].as_str().map_or(0, str::len);
                if note > NOTE {
                    found.push(Violation::new(
                        "I10",
                        format!("the note of an Event has {note} bytes: {}", request.body["note"]),
                    ));
                }
            }
            What::RunnerEnded { pod, message, .. } if message.len() > MESSAGE => {
                found.push(Violation::new("I10", format!("the message of Pod {pod} has {} bytes", message.len())));
            }
            What::RunnerEnded { pod, code: 0, message, .. } if serde_json::from_str::<Value>(message).is_err() => {
                found.push(Violation::new("I10", format!("the message of Pod {pod} is no JSON")));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use crate::faults::history::{Request, What};
    use serde_json::json;

    #[test]
    fn a_long_note_and_a_long_message_are_seen() {
        let mut world = World::chain();
        let path = "/apis/events.k8s.io/v1/namespaces/n/events".to_owned();
        let body = json!({"note": "x".repeat(1025)});
        world.push(What::Request(Request { id: 90, path, body, ..Request::default() }));
        assert!(one(&world.check(), "I10").starts_with("the note of an Event has 1025 bytes"));

        let mut world = World::chain();
        world.push(What::RunnerEnded { pod: "p".into(), uid: "u".into(), code: 64, message: "x".repeat(4097) });
        assert_eq!(one(&world.check(), "I10"), "the message of Pod p has 4097 bytes");
    }
}

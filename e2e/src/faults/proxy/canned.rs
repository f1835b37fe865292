//! Class B: answers that the API server did not give.

use super::{Answer, json_answer};
use crate::faults::fault::Fault;
use http::{HeaderValue, header};
use serde_json::json;

/// What is answered to a write of this path; `None` for a fault that is none of an answer.
pub(super) fn answer(fault: Fault, path: &str) -> Option<Answer> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let (code, reason, message) = match fault {
        // A create meets an object of its name; everything else one that has changed.
        Fault::Conflict if matches!(name, "pods" | "controllerrevisions" | "trainingjobs") => {
            (409, "AlreadyExists", format!("{name} \"x\" already exists"))
        }
        Fault::Conflict => (
            409,
            "Conflict",
            "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again"
                .to_owned(),
        ),
        Fault::TooManyRequests => {
            (429, "TooManyRequests", "too many requests, please try again later".to_owned())
        }
        Fault::InternalError => (500, "InternalError", "Internal error occurred: etcdserver: leader changed".to_owned()),
        Fault::Unavailable => {
            (503, "ServiceUnavailable", "the server is currently unable to handle the request".to_owned())
        }
        Fault::GatewayTimeout => {
            (504, "Timeout", "Timeout: request did not complete within the allotted timeout".to_owned())
        }
        Fault::Quota => (
            403,
            "Forbidden",
            "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1".to_owned(),
        ),
        Fault::Invalid => (422, "Invalid", "the object is invalid: spec.x: Invalid value: 1".to_owned()),
        Fault::TooLargeForEtcd => (500, "", "etcdserver: request is too large".to_owned()),
        Fault::TooLargeForServer => {
            (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728".to_owned())
        }
        Fault::TooLargeForMessage => (
            500,
            "",
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2097153 vs. 2097152)"
                .to_owned(),
        ),
        _ => return None,
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    let mut answer = json_answer(code, &status);
    if code == 429 {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Some(answer)
}

//! The ways in which an API server, or something between it and the client, goes wrong.

use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verb {
    List,
    Watch,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An HTTP error with the API's Status object.
    Status(u16),
    /// A watch begins and says in its first event that something is wrong.
    ErrorEvent(u16),
    /// HTTP 200, but not what the client can read. In a watch: one event, and the watch goes on.
    BrokenJson,
    /// The answer never comes.
    Silence,
    /// The connection ends in the middle of the answer.
    CutShort,
    /// The page after the first one fails: the list expired while it was read.
    ExpiredPage,
}

pub fn status(code: u16) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        410 => "Expired",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        _ => "Unknown",
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": format!("the test wants {code}"),
    })
}

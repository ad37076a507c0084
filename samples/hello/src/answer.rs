//! The program: one line that says what answered. The same file is built into a component
//! (`component.rs`) and into a container's only executable (`server.rs`).

/// What this build of the program is.
const KIND: &str = if cfg!(target_family = "wasm") { "wasm component" } else { "container" };

/// An HTTP answer with a text body.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Answers a request for `path`; `pod` is the name of the pod that runs this.
pub fn answer(path: &str, pod: &str) -> Answer {
    match path.split('?').next().unwrap_or("/") {
        "/healthz" => Answer { status: 200, body: "ok\n".into() },
        "/" => Answer { status: 200, body: format!("hello from a {KIND} ({pod})\n") },
        other => Answer { status: 404, body: format!("nothing at {other}\n") },
    }
}

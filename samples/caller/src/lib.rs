//! One program, two Services: `caller` asks the Service that BACKENDS names, several at the same time, and tells what
//! they said; the pods behind `caller-backend` have no BACKENDS and answer themselves.

use std::time::Duration;

use catamaran_sdk::fetch::{Error, Request as Outgoing};
use catamaran_sdk::{Request, Response, env, task};

catamaran_sdk::http!(async handle);

async fn handle(request: Request) -> Response {
    let pod = env("POD_NAME").unwrap_or_else(|| "nobody".into());
    let Some(backends) = env("BACKENDS") else {
        return Response::text(format!("{} from {pod}\n", request.path()));
    };
    let calls = backends.split_whitespace().map(|backend| ask(format!("{backend}{}", request.path())));
    let answers = task::join(calls).await;
    if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        return Response::text(format!("{pod} got {error}\n")).status(502);
    }
    let lines: String = answers.into_iter().flatten().map(|text| format!("{pod} heard {text}")).collect();
    Response::text(lines)
}

async fn ask(url: String) -> Result<String, Error> {
    let mut answer = Outgoing::get(&url).timeout(Duration::from_secs(5)).send_async().await?;
    let body = answer.body_mut().read_bytes_async().await;
    let body = body.map_err(|error| Error::Failed { url, reason: error.to_string() })?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}
